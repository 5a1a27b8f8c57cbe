//! Writes to standard output and standard error. If their reader closes them (`| head`), the command ends without an
//! error.
//!
//! Invariant: text from a topic or from another process is escaped before it is printed, because a terminal would
//! execute its control sequences.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use super::exit::{Exit, Failure};

/// Prints `text` and returns the exit code. The code is 0 even if the reader has closed standard output.
pub fn print_and_exit(text: &str) -> ExitCode {
    print(text).map_or_else(
        |failure| failure.map_or(ExitCode::SUCCESS, |f| f.exit.into()),
        |()| ExitCode::SUCCESS,
    )
}

/// Writes `text` to standard output and flushes it. Returns `Err(None)` if the reader has closed standard output. The
/// command should then end without an error.
pub fn print(text: &str) -> Result<(), Option<Failure>> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => None,
        _ => Some(Failure::new(
            Exit::Unavailable,
            format!("standard output cannot be written: {error}"),
        )),
    })
}

/// Returns `text` on one line, with each control character written as an escape such as `\u001b`. JSON has the same
/// escapes, so if `text` is JSON, the returned text is the same JSON value.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_control(character) {
            true => {
                // Writing to a `String` cannot fail.
                let _ = write!(escaped, "\\u{:04x}", u32::from(character));
            }
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// Whether the character is a control character (C0 or C1), ends a line, or changes the direction of the text after it.
fn is_control(character: char) -> bool {
    let separates = matches!(character, '\u{2028}' | '\u{2029}');
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || separates || turns
}

/// Whether the terminal supports escape sequences. A terminal with `TERM=dumb` supports none. Without `TERM`, it is not
/// known which sequences the terminal supports, so none are used.
pub fn can_be_drawn_on() -> bool {
    let terminal = std::env::var_os("TERM").unwrap_or_default();
    !terminal.is_empty() && terminal != "dumb"
}

/// Prints a message of `program` on standard error, on one line.
pub fn print_error(program: &str, message: &str) {
    // Errors of libraries may contain line breaks, which are replaced by spaces.
    let words: Vec<&str> = message.split_whitespace().collect();
    // `writeln!` is used because `eprintln!` panics if standard error is closed.
    let _ = writeln!(io::stderr(), "{program}: {}", escaped(&words.join(" ")));
}

/// Converts the result of [`print()`] to the result of a command. A closed standard output is not an error.
pub fn quietly(ended: Result<(), Option<Failure>>) -> Result<(), Failure> {
    match ended {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(failure)) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn text_from_a_topic_or_a_peer_cannot_control_the_terminal() {
        assert_eq!(escaped("text 🔥 ❤️ 👩‍🚒"), "text 🔥 ❤️ 👩‍🚒");
        assert_eq!(
            escaped("\x1b]0;owned\x07 \u{9b}2J\x7f\r\n\u{202e}"),
            "\\u001b]0;owned\\u0007 \\u009b2J\\u007f\\u000d\\u000a\\u202e"
        );
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({"text": "\x1b[31m \u{9b}2J \x7f \u{202e} \u{2028}"});
        let line = value.to_string();
        let read: serde_json::Value = serde_json::from_str(&escaped(&line)).unwrap();
        assert_eq!(read, value);
        assert_ne!(escaped(&line), line);
    }
}
