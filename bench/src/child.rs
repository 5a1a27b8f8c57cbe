//! A contender: a process of its own, and what it has cost so far, by /proc.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::Outcome;

/// The unit of times in /proc, on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// A running process; killed when it is let go.
pub(crate) struct Contender {
    child: Child,
}

impl Contender {
    /// Starts it; what it says goes to standard error.
    pub(crate) fn start(command: &mut Command) -> Outcome<Contender> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        Ok(Contender { child })
    }

    /// Waits for a line on its standard output, and answers what follows `word` there.
    pub(crate) fn hear(&mut self, word: &str) -> Outcome<String> {
        let out = self
            .child
            .stdout
            .take()
            .ok_or("its output was heard already")?;
        for line in BufReader::new(out).lines() {
            if let Some(rest) = line?.strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
        }
        Err(format!("it ended without saying {word}").into())
    }

    /// The CPU that it has used, in user and kernel, all threads.
    pub(crate) fn cpu(&self) -> Outcome<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The command's name stands in parentheses and may hold spaces; utime is the 14th field.
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/stat without a name")?;
        let mut ticks = fields.split_whitespace().skip(11);
        let mut next =
            || -> Outcome<u32> { Ok(ticks.next().ok_or("a short /proc/stat")?.parse()?) };
        Ok(TICK * (next()? + next()?))
    }

    /// The most memory that it has had, in MB.
    pub(crate) fn peak_mb(&self) -> Outcome<f64> {
        self.status("VmHWM:")
    }

    /// The memory that it has, in MB.
    pub(crate) fn resident_mb(&self) -> Outcome<f64> {
        self.status("VmRSS:")
    }

    fn status(&self, field: &str) -> Outcome<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kb: f64 = line
            .and_then(|line| line.split_whitespace().next())
            .ok_or("the process has ended")?
            .parse()?;
        Ok(kb / 1024.0)
    }

    /// An error once it has ended by itself.
    pub(crate) fn check(&mut self) -> Outcome<()> {
        match self.child.try_wait()? {
            Some(status) => Err(format!("it ended: {status}").into()),
            None => Ok(()),
        }
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
