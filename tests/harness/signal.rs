//! Signals to processes of a test.

use std::process::Command;

/// Sends the signal called `name` (`TERM`, `KILL`, `STOP`, `CONT`) to a process that was started here.
pub fn signal(pid: u32, name: &str) {
    let (signal, pid) = (format!("-{name}"), pid.to_string());
    // The process may have ended already.
    let _ = Command::new("kill").args([&signal, &pid]).output().unwrap();
}
