//! The flags that set how a process runs an application.

use std::{thread, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_log::EventClock;
use emostream_streams::config::{HEARTBEAT, RunConfig};

use super::parse::{duration, ms};
use crate::process::Failure;

/// Maximum of `--workers`.
const MOST_WORKERS: u64 = 1024;

/// Number of workers per core above which a warning is logged: more workers do not increase the throughput.
const WORKERS_A_CORE: u64 = 2;

/// Minimum of `--commit-timeout`. If a transaction is too slow, the log needs some seconds of this time to abort it.
const LEAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum of `--takeover`, in intervals of the active run's heartbeat. If the broker fails that leads the partition of
/// the progress topic, one heartbeat may be lost, and the next one may wait for a new leader. A standby must not take
/// over for that reason.
const LEAST_HEARTBEATS: u32 = 3;

/// The flags of a run that all applications have.
#[derive(Debug, Clone, Args)]
pub struct RunFlags {
    /// Number of worker threads
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=MOST_WORKERS))]
    workers: u64,
    /// Maximum time by which an event may be older than the newest event of its partition
    #[arg(long, default_value = "750ms", value_parser = duration)]
    pub lateness: Duration,
    /// Time without new records after which a partition that is read to its end no longer delays the windows
    #[arg(long, default_value = "10s", value_parser = duration)]
    idle_timeout: Duration,
    /// Time after which a partition that cannot be read to its end (no response, or an open transaction of another
    /// producer) no longer delays the windows
    #[arg(long, default_value = "60s", value_parser = duration)]
    hold_timeout: Duration,
    /// Timeout of the transactions that write results; at most the brokers' transaction.max.timeout.ms
    #[arg(long, default_value = "60s", value_parser = duration)]
    commit_timeout: Duration,
    /// Run even if the brokers accept records with timestamps more than 5 s in the future
    #[arg(long)]
    unbounded_timestamps: bool,
}

impl RunFlags {
    /// Returns the configuration of a run, or an error if two flags contradict each other. `clock` is the clock that
    /// sets the times of events.
    pub fn config(&self, clock: EventClock) -> Result<RunConfig, Failure> {
        if self.idle_timeout <= self.lateness {
            let why = format!("must be longer than the lateness of {:?}", self.lateness);
            return Err(Failure::usage("--idle-timeout", why));
        }
        if self.commit_timeout < LEAST_COMMIT_TIMEOUT {
            let why = format!("must be {LEAST_COMMIT_TIMEOUT:?} or longer");
            return Err(Failure::usage("--commit-timeout", why));
        }
        let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
        if self.workers > cores.saturating_mul(WORKERS_A_CORE) {
            let workers = self.workers;
            tracing::warn!(
                workers,
                cores,
                "there are many more workers than cores, so the workers share the cores"
            );
        }
        Ok(RunConfig {
            workers: self.workers as usize,
            lateness_ms: ms(self.lateness),
            idle_timeout: self.idle_timeout,
            hold_timeout: self.hold_timeout,
            commit_timeout: self.commit_timeout,
            unbounded_timestamps: self.unbounded_timestamps,
            clock,
            ..RunConfig::default()
        })
    }
}

/// The flags of standbys.
#[derive(Debug, Clone, Args)]
pub struct StandbyFlags {
    /// Start as a standby: wait until no other run commits, then take over
    #[arg(long)]
    standby: bool,
    /// Time without a commit of another run after which a standby takes over
    #[arg(long, default_value = "10s", value_parser = duration)]
    takeover: Duration,
}

impl StandbyFlags {
    /// Returns `run` with the values of these flags, or an error if `--takeover` is too short.
    pub fn applied_to(&self, run: RunConfig) -> Result<RunConfig, Failure> {
        let least = HEARTBEAT * LEAST_HEARTBEATS;
        if self.takeover < least {
            let why = format!(
                "must be {least:?} or longer: an active run commits every {HEARTBEAT:?}, and a commit may take seconds"
            );
            return Err(Failure::usage("--takeover", why));
        }
        Ok(RunConfig {
            standby: self.standby,
            takeover: self.takeover,
            ..run
        })
    }
}
