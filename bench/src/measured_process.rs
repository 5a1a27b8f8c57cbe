//! A measured child process: its CPU time and memory, from /proc.

use std::{
    fs,
    io::{BufRead, BufReader},
    ops::Sub,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::Result;

/// Unit of the CPU times in /proc: a hundredth of a second, since `USER_HZ` is 100 on Linux.
const TICK: Duration = Duration::from_millis(10);

/// The resources that a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Number of times that a thread waited for another thread or for the kernel. Threads that have ended are not
    /// included.
    pub(crate) waits: f64,
    /// Number of times that the kernel stopped a running thread, to run another thread on its core.
    pub(crate) preemptions: f64,
    /// Number of memory pages that the kernel mapped for the process (minor page faults).
    pub(crate) page_faults: f64,
}

impl Usage {
    pub(crate) fn cpu(&self) -> Duration {
        self.user + self.system
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, before: Usage) -> Usage {
        Usage {
            user: self.user - before.user,
            system: self.system - before.system,
            waits: self.waits - before.waits,
            preemptions: self.preemptions - before.preemptions,
            page_faults: self.page_faults - before.page_faults,
        }
    }
}

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

    /// Waits for a line on standard output that contains an address with `http://`, and returns the text after
    /// `http://`.
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
        Ok(self.usage()?.cpu())
    }

    /// Returns the resources that the process has used since its start.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let pid = self.child.id();
        // `minflt`, `utime` and `stime`.
        let [page_faults, user, system] = stat_fields(&pid.to_string(), [10, 14, 15])?;
        let mut usage = Usage {
            user: TICK.mul_f64(user),
            system: TICK.mul_f64(system),
            page_faults,
            ..Usage::default()
        };
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            // The thread may have ended since its id was read.
            let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
                continue;
            };
            usage.waits += number(&status, "voluntary_ctxt_switches:").unwrap_or_default();
            usage.preemptions += number(&status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
        }
        Ok(usage)
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
        let kb = number(&status, field).ok_or("the process has ended")?;
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

/// Returns fields of /proc/PID/stat, which are numbered as in the manual page `proc_pid_stat(5)`.
pub(crate) fn stat_fields<const N: usize>(pid: &str, fields: [usize; N]) -> Result<[f64; N]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command's name in parentheses. It may contain spaces, so fields are counted after it.
    let (_, after) = stat.rsplit_once(')').ok_or("/proc/stat without a name")?;
    let after: Vec<&str> = after.split_whitespace().collect();
    let mut values = [0.0; N];
    for (value, field) in values.iter_mut().zip(fields) {
        *value = after.get(field - 3).ok_or("a short /proc/stat")?.parse()?;
    }
    Ok(values)
}

/// Returns the number of a field of /proc/PID/status.
fn number(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Drop for MeasuredProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
