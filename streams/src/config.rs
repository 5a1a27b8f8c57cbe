//! What an application runs with.

use std::{sync::LazyLock, time::Duration};

use emostream_log::EventClock;
use emostream_protocol::WindowSize;

use crate::{
    cluster::{Agreement, Cluster},
    progress::{record::RunIdentity, settings::Settings},
    sink::rejections::MAX_UNWRITTEN_BYTES,
    time::idleness::IdleTimeouts,
    topics::Topics,
};

/// When the first run of this process began.
static STARTED_MS: LazyLock<u64> = LazyLock::new(|| EventClock::host().unix_ms());

/// How often progress is committed when there is nothing else to write. Five of them fit into the default of
/// `--takeover`, so that a lost one, or a commit that takes seconds, is not taken for a dead run; and one small
/// transaction in that time is nothing to a broker, which gets as many from a run that counts.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// Limits that unit tests and simulations lower, so that they reach them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many counts an operator handles in a step, and at most one key more: some milliseconds. A worker runs its
    /// operators one after the other. One that handles everything at once, such as the close of a window with millions
    /// of counts, keeps the worker from reading, from showing updates, and from its heartbeat, by which the watchdog
    /// knows that it is not stuck. So an operator stops after this many counts, keeps its capability, and activates
    /// itself again.
    pub max_step_counts: usize,
    /// Maximum bytes of a partition's rejections that are not written: see [`MAX_UNWRITTEN_BYTES`].
    pub max_unwritten_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_step_counts: 50_000,
            max_unwritten_bytes: MAX_UNWRITTEN_BYTES,
        }
    }
}

/// What an application runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics that it reads and writes.
    pub topics: Topics,
    /// What its results depend on.
    pub settings: Settings,
    /// What else must be the same in every process of a cluster, by the name of its flag.
    pub agreed: Vec<(String, String)>,
    /// Worker threads of this process.
    pub workers: usize,
    /// The processes that share the work; `None` for this one alone.
    pub cluster: Option<Cluster>,
    /// The size of the windows.
    pub window: WindowSize,
    /// How long a partition waits for late events, milliseconds.
    pub lateness_ms: u64,
    /// How long a partition that gets nothing holds the others back.
    pub idle_timeout: Duration,
    /// How long a partition may hold time where the log does not show that it has been read to its end.
    pub hold_timeout: Duration,
    /// How long a transaction may take; at most the brokers' `transaction.max.timeout.ms`.
    pub commit_timeout: Duration,
    /// Whether it starts as a standby, which waits until no other run commits.
    pub standby: bool,
    /// How often progress is committed when there is nothing else to write.
    pub heartbeat: Duration,
    /// How long a standby sees no commit before it takes over; several times the heartbeat.
    pub takeover: Duration,
    /// Whether a source topic is accepted that takes records dated further in the future than the application can judge.
    pub unbounded_timestamps: bool,
    /// How old the finals may be that a restart needs.
    pub finals_needed: Duration,
    /// The length of the longest sliding span, milliseconds: a restart needs the finals in it.
    pub span_ms: u64,
    /// Limits that tests lower.
    pub limits: Limits,
    /// The clock that dates events: the one of the producers and the log where they are in this process.
    pub clock: EventClock,
}

impl Config {
    /// The timeouts of partitions that bring nothing.
    pub fn timeouts(&self) -> IdleTimeouts {
        IdleTimeouts {
            idle: self.idle_timeout,
            hold: self.hold_timeout,
        }
    }

    /// How long a window may be open.
    pub fn longest_open(&self) -> Duration {
        Duration::from_millis(self.window.as_ms())
            + Duration::from_millis(self.lateness_ms)
            + self.hold_timeout
    }

    /// Names this run in its progress.
    pub fn identity(&self) -> RunIdentity {
        RunIdentity {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            process: self.cluster.as_ref().map_or(0, |cluster| cluster.index),
            pid: std::process::id(),
            started_ms: *STARTED_MS,
        }
    }

    /// What must be the same in every process of the cluster. The log is the Kafka cluster of this id.
    pub fn agreement(&self, processes: usize, cluster_id: Option<String>) -> Agreement {
        let cluster_id = cluster_id.unwrap_or_default();
        let own = [
            ("--processes", format!("{processes:?}")),
            ("--workers", format!("{:?}", self.workers)),
            ("the id of the Kafka cluster", format!("{cluster_id:?}")),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        Agreement::new(self.agreed.iter().cloned().chain(own).collect())
    }
}
