//! Signals to processes of a test.

use std::process::Command;

/// Sends the signal called `name` (`TERM`, `KILL`, `STOP`, `CONT`) to a process that the test has started.
pub fn signal(pid: u32, name: &str) {
    let (signal, pid) = (format!("-{name}"), pid.to_string());
    // A failure of `kill` is ignored, since the process may have ended already.
    let _ = Command::new("kill").args([&signal, &pid]).output().unwrap();
}
