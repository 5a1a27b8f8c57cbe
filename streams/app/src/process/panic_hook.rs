//! The panic hook. A panic on any thread ends the process, because a service with a dead thread would still report that
//! it is healthy.

use std::panic::PanicHookInfo;

use super::{exit::Exit, logging::LogFormat};

/// Installs the hook. It prints the message and the location of a panic as the last line of `program`, and ends the
/// process with exit code 70.
pub fn install(program: &'static str, format: LogFormat) {
    std::panic::set_hook(Box::new(move |panic| {
        format.print_end(program, &describe(panic), Exit::Defect as i32);
        std::process::exit(Exit::Defect as i32);
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let why = panic
        .payload_as_str()
        .unwrap_or("a panic")
        .replace('\n', " ");
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string);
    format!(
        "a defect ended the process: {why} (thread {}, {}); please report this line",
        thread.name().unwrap_or("unnamed"),
        place.as_deref().unwrap_or("unknown place"),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::process::Command;

    const PANIC_HERE: &str = "EMOSTREAM_TEST_PANIC_HERE";

    #[test]
    fn a_panic_on_any_thread_ends_the_whole_process_with_70_and_one_line() {
        if std::env::var_os(PANIC_HERE).is_some() {
            super::install("emostream", super::LogFormat::Text);
            let _ = std::thread::spawn(|| panic!("no such\nwindow")).join();
            std::thread::park();
        }
        let this_test = "a_panic_on_any_thread_ends_the_whole_process_with_70_and_one_line";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--nocapture", this_test])
            .env(PANIC_HERE, "1")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&child.stderr).into_owned();
        assert_eq!(child.status.code(), Some(70), "{errors}");
        let lines: Vec<_> = errors
            .lines()
            .filter(|l| l.contains("emostream:"))
            .collect();
        assert_eq!(lines.len(), 1, "{errors}");
        assert!(lines[0].contains("no such window"), "{errors}");
    }
}
