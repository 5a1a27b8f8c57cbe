//! The use of the machine during a run. Other programs affect the CPU time of the measured program, so each figure also
//! shows how much CPU time the other programs used.

use std::{fmt, fs};

use crate::{Result, measured_process::stat_fields};

/// The machine's CPU times at one moment, in ticks of all cores.
pub(crate) struct Machine {
    cores: usize,
    total: f64,
    idle: f64,
    steal: f64,
    /// CPU time of this process, and of its child processes that have ended.
    own: f64,
}

/// The use of the machine during a run.
pub(crate) struct MachineUse {
    /// Steal time in percent: the share of the time in which a core of this machine had work, but the hypervisor ran
    /// other machines.
    steal: f64,
    /// CPU time of all programs except the measured program and this program, in cores: the CPU time of the broker and
    /// of unrelated programs, divided by the duration of the run.
    others: f64,
    /// Load average of the last minute, at the end of the run.
    load: f64,
}

impl Machine {
    pub(crate) fn now() -> Result<Machine> {
        let stat = fs::read_to_string("/proc/stat")?;
        // The first line: `cpu`, user, nice, system, idle, iowait, irq, softirq, steal; then guests, which are a part
        // of user. A line for each core follows.
        let mut lines = stat.lines().filter(|line| line.starts_with("cpu"));
        let times: Result<Vec<f64>, _> = lines
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(str::parse)
            .collect();
        let times = times?;
        let [_, _, _, idle, iowait, _, _, steal] = times[..] else {
            return Err("a short /proc/stat".into());
        };
        // `utime`, `stime`, `cutime` and `cstime`.
        let own = stat_fields("self", [14, 15, 16, 17])?.iter().sum();
        Ok(Machine {
            cores: lines.count(),
            total: times.iter().sum(),
            idle: idle + iowait,
            steal,
            own,
        })
    }

    /// Returns the use of the machine since this moment. The caller must start the measured program after this moment,
    /// and must wait for the end of the program before this call.
    pub(crate) fn since(&self) -> Result<MachineUse> {
        let now = Machine::now()?;
        let total = now.total - self.total;
        let steal = now.steal - self.steal;
        let others = total - steal - (now.idle - self.idle) - (now.own - self.own);
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(MachineUse {
            steal: 100.0 * steal / total,
            others: self.cores as f64 * others / total,
            load: load.split(' ').next().unwrap_or_default().parse()?,
        })
    }
}

impl MachineUse {
    /// Headings of the columns that [`MachineUse::cells`] returns.
    pub(crate) const COLUMNS: &str = "steal % | others' cores | load";

    pub(crate) fn cells(&self) -> String {
        format!("{:.1} | {:.2} | {:.1}", self.steal, self.others, self.load)
    }
}

impl fmt::Display for MachineUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "machine: steal {:.1} %, {:.2} cores used by the broker and other programs, load {:.1}",
            self.steal, self.others, self.load
        )
    }
}
