//! The configuration of an application.

use std::{fmt::Debug, sync::LazyLock, time::Duration};

use emostream_log::EventClock;
use emostream_protocol::WindowSize;

use crate::{
    StreamsError,
    cluster::{Cluster, ClusterSettings},
    operators::sliding::SlidingSpan,
    progress::{
        record::RunIdentity,
        settings::{LATENESS_MS, Settings, WINDOW_MS},
    },
    sink::rejections::MAX_UNWRITTEN_BYTES,
    time::idleness::IdleTimeouts,
    topics::Topics,
};

/// Version of the format in which workers exchange data. It must be increased with each change of an exchanged type,
/// even if the layout of the bytes stays the same: otherwise processes of different builds would misread each other's
/// data. In format 1, a partial count contained the start of its window; since format 2, it contains the last instant.
const EXCHANGE_FORMAT: u32 = 2;

/// The time at which the first run of this process began, Unix milliseconds.
static STARTED_MS: LazyLock<u64> = LazyLock::new(|| EventClock::host().unix_ms());

/// Interval at which progress is committed when there is nothing else to write. The default of `--takeover` is five
/// intervals, so that a standby does not take over after one lost heartbeat or a commit that takes seconds. One small
/// transaction per interval is a low load for a broker: a run that receives events commits as often.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// Limits that unit tests and simulations set to lower values, so that they can reach them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of counts that an operator handles in one step, which then takes some milliseconds. A step may
    /// exceed it by the counts of one key. A worker runs its operators one after the other. An operator that handled
    /// everything at once, such as the close of a window with millions of counts, would keep the worker from reading,
    /// from writing updates, and from sending its heartbeat; the watchdog would then assume that the worker is stuck.
    /// So an operator stops after this many counts, keeps its capability, and activates itself again.
    pub max_step_counts: usize,
    /// Maximum bytes of the rejections of one partition that are not committed yet; see [`MAX_UNWRITTEN_BYTES`].
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

/// The configuration of an application.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics that the application reads and writes.
    pub topics: Topics,
    /// The settings that the results of the application depend on.
    pub settings: Settings,
    /// Further values that must be the same in every process of a cluster: the name of the flag, and the value.
    pub agreed: Vec<(String, String)>,
    /// Number of worker threads of this process.
    pub workers: usize,
    /// The processes that share the work; `None` if this process runs alone.
    pub cluster: Option<Cluster>,
    /// The size of the windows.
    pub window: WindowSize,
    /// Difference between the newest time in a partition and the watermark of the partition, milliseconds.
    pub lateness_ms: u64,
    /// Time for which a partition without new records holds back the frontier before it may count as idle.
    pub idle_timeout: Duration,
    /// Maximum time for which a partition without new records may hold back the frontier while the log does not confirm
    /// that the partition was read to its end.
    pub hold_timeout: Duration,
    /// Timeout of a transaction; at most the brokers' `transaction.max.timeout.ms`.
    pub commit_timeout: Duration,
    /// Whether the process starts as a standby, which waits until no other run commits.
    pub standby: bool,
    /// Interval at which progress is committed when there is nothing else to write.
    pub heartbeat: Duration,
    /// Time without a commit after which a standby takes over; several times the heartbeat.
    pub takeover: Duration,
    /// Whether the run accepts a source topic for which the brokers do not reject records with timestamps far in the
    /// future.
    pub unbounded_timestamps: bool,
    /// Maximum age of the finals that a restart needs.
    pub finals_needed: Duration,
    /// The length of the sliding span, milliseconds; a multiple of the window size. A restart reads the finals in the
    /// span again.
    pub span_ms: u64,
    /// Time without a final, in event time, after which a key is removed and its totals begin at 0 with its next final,
    /// milliseconds. At least the sliding span.
    pub retention_ms: u64,
    /// Limits that unit tests and simulations lower.
    pub limits: Limits,
    /// The clock that sets the times of events. Producers and a log in this process must use the same clock.
    pub clock: EventClock,
}

impl Config {
    /// Returns the configuration of an application with windows of this size, in one process with one worker. It has
    /// the defaults of `emostream dataflow`, and neither tables nor a sliding span.
    pub fn new(topics: Topics, window: WindowSize) -> Config {
        let lateness_ms = 750;
        Config {
            settings: Settings::default()
                .with("source", "the source topic", topics.source.as_str())
                .with(WINDOW_MS, "the size of the windows (ms)", window.as_ms())
                .with(LATENESS_MS, "the lateness (ms)", lateness_ms),
            agreed: Vec::new(),
            topics,
            workers: 1,
            cluster: None,
            window,
            lateness_ms,
            idle_timeout: Duration::from_secs(10),
            hold_timeout: Duration::from_secs(60),
            commit_timeout: Duration::from_secs(60),
            standby: false,
            heartbeat: HEARTBEAT,
            takeover: 5 * HEARTBEAT,
            unbounded_timestamps: false,
            finals_needed: Duration::ZERO,
            span_ms: 0,
            retention_ms: u64::MAX,
            limits: Limits::default(),
            clock: EventClock::host(),
        }
    }

    /// Returns the timeouts of partitions without new records.
    pub fn timeouts(&self) -> IdleTimeouts {
        IdleTimeouts {
            idle: self.idle_timeout,
            hold: self.hold_timeout,
        }
    }

    /// Checks that the values do not contradict each other.
    ///
    /// # Errors
    ///
    /// [`StreamsError::Worker`] if they do, which is a defect of the application.
    pub fn check(&self) -> Result<(), StreamsError> {
        for (name, value) in [
            (WINDOW_MS, self.window.as_ms()),
            (LATENESS_MS, self.lateness_ms),
        ] {
            if self.settings.number(name) != Some(value) {
                let defect = format!("the setting {name} must be {value}, as in the configuration");
                return Err(StreamsError::Worker(defect));
            }
        }
        if self.retention_ms < self.span_ms {
            let defect = "the retention of totals must not be shorter than the sliding span";
            return Err(StreamsError::Worker(defect.to_owned()));
        }
        Ok(())
    }

    /// Returns the sliding span.
    pub fn span(&self) -> SlidingSpan {
        SlidingSpan {
            size: self.window,
            span_ms: self.span_ms,
        }
    }

    /// Returns the longest time for which a window may be open.
    pub fn longest_open(&self) -> Duration {
        Duration::from_millis(self.window.as_ms())
            + Duration::from_millis(self.lateness_ms)
            + self.hold_timeout
    }

    /// Returns the identity of this run, which its progress records contain.
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

    /// Returns the settings that must be the same in every process of the cluster. `cluster_id` is the id of the Kafka
    /// cluster that holds the log.
    pub fn cluster_settings(
        &self,
        processes: usize,
        cluster_id: Option<String>,
    ) -> ClusterSettings {
        let text = |name: &str, value: &dyn Debug| (name.to_owned(), format!("{value:?}"));
        let own = [
            text("the format of exchanged data", &EXCHANGE_FORMAT),
            text("--processes", &processes),
            text("--workers", &self.workers),
            text(
                "the id of the Kafka cluster",
                &cluster_id.unwrap_or_default(),
            ),
            text("--window", &Duration::from_millis(self.window.as_ms())),
            text("--lateness", &Duration::from_millis(self.lateness_ms)),
            text("--idle-timeout", &self.idle_timeout),
            text("--hold-timeout", &self.hold_timeout),
            text("--unbounded-timestamps", &self.unbounded_timestamps),
        ];
        let application = [
            text("the id of the application", &self.topics.application_id),
            text("the source topic", &self.topics.source),
            text("the sliding span (ms)", &self.span_ms),
            text("the retention of totals (ms)", &self.retention_ms),
        ];
        let agreed = self.agreed.iter().cloned();
        ClusterSettings::new(own.into_iter().chain(agreed).chain(application).collect())
    }
}
