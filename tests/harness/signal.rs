//! Signals to processes of a test.

use std::process::Command;

/// Sends the signal called `name` (`TERM`, `KILL`, `STOP`, `CONT`) to a process that was started here.
pub fn signal(pid: u32, name: &str) {
    let (signal, pid) = (format!("-{name}"), pid.to_string());
    // It may have ended by itself meanwhile.
    let _ = Command::new("kill").args([&signal, &pid]).output().unwrap();
}
