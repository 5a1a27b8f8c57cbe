//! A measured child process: its CPU time and memory, from /proc.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::Result;

/// Unit of the CPU times in /proc: a hundredth of a second, since `USER_HZ` is 100 on Linux.
const TICK: Duration = Duration::from_millis(10);

/// A running process, which is killed when this value is dropped.
pub(crate) struct MeasuredProcess {
    child: Child,
}

impl MeasuredProcess {
    /// Starts the process. Its standard error is inherited.
    pub(crate) fn start(command: &mut Command) -> Result<MeasuredProcess> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        Ok(MeasuredProcess { child })
    }

    /// Waits for a line on standard output that contains an address with `http://`, and returns what follows that.
    pub(crate) fn wait_for_address(&mut self) -> Result<String> {
        self.wait_for("http://", |line| Some(line.split_once("http://")?.1))
    }

    /// Waits for a line on standard output that starts with `prefix`, and returns the rest of that line.
    pub(crate) fn wait_for_line(&mut self, prefix: &str) -> Result<String> {
        self.wait_for(prefix, |line| line.strip_prefix(prefix))
    }

    fn wait_for(&mut self, what: &str, rest: impl Fn(&str) -> Option<&str>) -> Result<String> {
        let out = self
            .child
            .stdout
            .take()
            .ok_or("the output of the process was read before")?;
        for line in BufReader::new(out).lines() {
            if let Some(rest) = rest(&line?) {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(format!("the process ended without printing {what}").into())
    }

    /// Returns the CPU time of all threads, in user and kernel mode.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field is the command's name in parentheses. It may contain spaces, so fields are counted after it.
        // `utime` is the 14th field, and `stime` the 15th.
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/stat without a name")?;
        let mut ticks = fields.split_whitespace().skip(11);
        let mut next = || -> Result<u32> { Ok(ticks.next().ok_or("a short /proc/stat")?.parse()?) };
        Ok(TICK * (next()? + next()?))
    }

    /// Returns the peak resident memory, in MB.
    pub(crate) fn peak_mb(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    /// Returns the resident memory, in MB.
    pub(crate) fn resident_mb(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kb: f64 = line
            .and_then(|line| line.split_whitespace().next())
            .ok_or("the process has ended")?
            .parse()?;
        Ok(kb / 1024.0)
    }

    /// Returns an error if the process has ended.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => Err(format!("the process ended: {status}").into()),
            None => Ok(()),
        }
    }
}

impl Drop for MeasuredProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
