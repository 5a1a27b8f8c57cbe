//! The configuration of an application.

use std::{collections::HashSet, fmt::Debug, sync::LazyLock, time::Duration};

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
    topics::{Topic, Topics},
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

/// Limits that are lower in unit tests and simulations, so that tests reach the limits with little data.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of counts that an operator handles in one step. Such a step takes some milliseconds. A step may
    /// exceed the limit by the counts of one key. A worker runs its operators one after the other. An operator that
    /// handled everything at once, such as the close of a window with millions of counts, would keep the worker from
    /// reading, from writing updates, and from sending its heartbeat; the watchdog would then assume that the worker is
    /// stuck. So an operator stops after this many counts, keeps its capability, and activates itself again.
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

/// The settings with which a process runs an application. The default is that of `emostream dataflow`: one process with
/// one worker.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// Number of worker threads of this process.
    pub workers: usize,
    /// The processes that share the work; `None` if this process runs alone.
    pub cluster: Option<Cluster>,
    /// Difference between the newest time in a partition and the partition's watermark, milliseconds. It must exceed
    /// the time for which producers keep events before they send them, plus the difference between their clocks.
    pub lateness_ms: u64,
    /// Time without new records after which a partition is quiet. The frontier no longer waits for a quiet partition
    /// once the log confirms that the partition was read to its end.
    pub idle_timeout: Duration,
    /// Maximum time for which a quiet partition holds the frontier back while the log does not confirm that the
    /// partition was read to its end.
    pub hold_timeout: Duration,
    /// Timeout of a transaction; at most the brokers' `transaction.max.timeout.ms`.
    pub commit_timeout: Duration,
    /// Whether the process starts as a standby. A standby waits until no other run commits, and then takes over.
    pub standby: bool,
    /// Interval at which progress is committed while there are no results to write. It is [`HEARTBEAT`] if there may be
    /// a standby, since a standby takes over when commits stop.
    pub heartbeat: Duration,
    /// Time without a commit after which a standby takes over. It is several times [`HEARTBEAT`], so that one delayed
    /// commit causes no takeover.
    pub takeover: Duration,
    /// Whether the run may read a source topic for which the brokers do not reject records with timestamps far in the
    /// future.
    pub unbounded_timestamps: bool,
    /// Limits that unit tests and simulations lower.
    pub limits: Limits,
    /// The clock that sets the times of events. Producers and a log in this process must use the same clock.
    pub clock: EventClock,
}

impl Default for RunConfig {
    fn default() -> RunConfig {
        RunConfig {
            workers: 1,
            cluster: None,
            lateness_ms: 750,
            idle_timeout: Duration::from_secs(10),
            hold_timeout: Duration::from_secs(60),
            commit_timeout: Duration::from_secs(60),
            standby: false,
            heartbeat: HEARTBEAT,
            takeover: 5 * HEARTBEAT,
            unbounded_timestamps: false,
            limits: Limits::default(),
            clock: EventClock::host(),
        }
    }
}

/// The names of settings in messages and in the progress record. A program with flags uses the names of its flags.
#[derive(Debug, Clone, Copy)]
pub struct Labels {
    /// The name of the setting in the progress record that holds the source topic.
    pub source_setting: &'static str,
    /// The source topic.
    pub source: &'static str,
    /// The name of the window size (milliseconds), for the error that stored progress has another window size.
    pub window_ms: &'static str,
    /// The name of the lateness (milliseconds), for the error that stored progress has another lateness.
    pub lateness_ms: &'static str,
    /// The name of the length of the sliding span, for the error that the processes of a cluster have different
    /// lengths.
    pub span: &'static str,
    /// The name of the retention of totals, for the error that the processes of a cluster have different retentions.
    pub retention: &'static str,
}

impl Default for Labels {
    fn default() -> Labels {
        Labels {
            source_setting: "source",
            source: "the source topic",
            window_ms: "the size of the windows (ms)",
            lateness_ms: "the lateness (ms)",
            span: "the sliding span",
            retention: "the retention of totals",
        }
    }
}

/// The configuration of an application, without its topology.
#[derive(Debug, Clone)]
pub struct AppConfig {
    /// The id of the application. It is Kafka's transactional id, and the id of the consumer group whose offsets show
    /// how far the application has read. All runs use the same id, so that a new run fences the others.
    pub application_id: String,
    /// The prefix of the names of the application's metrics, without the underscore after it.
    pub metrics_prefix: String,
    /// The topic of records that were rejected.
    pub rejected: Topic,
    /// The topic of the progress.
    pub progress: String,
    /// The names of settings in messages.
    pub labels: Labels,
    /// Settings that the results depend on, in addition to the source topic, the window size and the lateness. In the
    /// progress record they follow these three.
    pub settings: Settings,
    /// Further values that must be the same in every process of a cluster: the name of the flag, and the value.
    pub agreed: Vec<(String, String)>,
    /// The settings with which the process runs the application.
    pub run: RunConfig,
}

impl AppConfig {
    /// Returns the configuration of the application with this id. The names of its topics for rejected records and for
    /// the progress begin with its id, those of its metrics with the id in which each `.` and `-` is an underscore.
    pub fn new(application_id: &str) -> AppConfig {
        AppConfig {
            application_id: application_id.to_owned(),
            metrics_prefix: application_id.replace(['.', '-'], "_"),
            rejected: Topic::new(format!("{application_id}.rejected")),
            progress: format!("{application_id}.progress"),
            labels: Labels::default(),
            settings: Settings::default(),
            agreed: Vec::new(),
            run: RunConfig::default(),
        }
    }
}

/// The declarations of a topology about its windows and tables.
#[derive(Debug, Clone, Copy)]
pub struct Declarations {
    /// The size of the windows.
    pub window: WindowSize,
    /// The length of the sliding span, milliseconds; 0 if there is none.
    pub span_ms: u64,
    /// If a key has no final result for longer than this, in event time, the key is removed, and its totals begin at 0
    /// with its next final result. Milliseconds; `u64::MAX` if keys are not removed.
    pub retention_ms: u64,
    /// The period in which the totals record of a large key is due once, milliseconds; `None` if there are no totals.
    pub totals_period_ms: Option<u64>,
}

/// The complete configuration of an application: its [`AppConfig`], and the declarations of its topology.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics that the application reads and writes.
    pub topics: Topics,
    /// The settings that the results of the application depend on.
    pub settings: Settings,
    /// Further values that must be the same in every process of a cluster: the name of the flag, and the value.
    pub agreed: Vec<(String, String)>,
    /// The names of settings in messages.
    pub labels: Labels,
    /// The size of the windows.
    pub window: WindowSize,
    /// Maximum age of the final results that a restart needs. A topic of final results must not delete them earlier.
    pub finals_needed: Duration,
    /// The length of the sliding span, milliseconds; a multiple of the window size. A restart reads the final results
    /// in the span again.
    pub span_ms: u64,
    /// If a key has no final result for longer than this, in event time, the key is removed, and its totals begin at 0
    /// with its next final result. Milliseconds; at least the sliding span.
    pub retention_ms: u64,
    /// The settings with which the process runs the application.
    pub run: RunConfig,
}

impl Config {
    /// Returns the complete configuration of an application with these topics and declarations.
    ///
    /// # Errors
    ///
    /// [`StreamsError::Worker`] if the declarations contradict each other. This is a defect of the application.
    pub fn new(
        app: &AppConfig,
        topics: Topics,
        declared: Declarations,
    ) -> Result<Config, StreamsError> {
        let (labels, run, window) = (app.labels, app.run.clone(), declared.window);
        let settings = Settings::default()
            .with(labels.source_setting, labels.source, topics.source.as_str())
            .with(WINDOW_MS, labels.window_ms, window.as_ms())
            .with(LATENESS_MS, labels.lateness_ms, run.lateness_ms)
            .followed_by(&app.settings);
        let config = Config {
            topics,
            settings,
            agreed: app.agreed.clone(),
            labels,
            window,
            finals_needed: Duration::ZERO,
            span_ms: declared.span_ms,
            retention_ms: declared.retention_ms,
            run,
        };
        let topics = config.topics.all();
        let mut earlier = HashSet::new();
        if let Some(topic) = topics.iter().find(|topic| !earlier.insert(*topic)) {
            let defect = format!("the topology has the topic {topic} twice");
            return Err(StreamsError::Worker(defect));
        }
        if config.retention_ms < config.span_ms.max(window.as_ms()) {
            let defect =
                "the retention of totals must not be shorter than a window or the sliding span";
            return Err(StreamsError::Worker(defect.to_owned()));
        }
        let open = config.longest_open();
        // The log must keep the final results of a large key until the key's totals record is written. This record is
        // due at most a period and the longest time of an open window after a final result, and must be written in the
        // first half of the retention of the final results. So the retention is at least twice this time. The second
        // half is for the time in which no run is active.
        let of_totals =
            |period_ms| (Duration::from_millis(period_ms).saturating_add(open)).saturating_mul(2);
        let of_totals = declared.totals_period_ms.map(of_totals);
        let of_span = (config.span_ms > 0)
            .then(|| Duration::from_millis(config.span_ms).saturating_add(open));
        Ok(Config {
            finals_needed: of_totals.max(of_span).unwrap_or_default(),
            ..config
        })
    }

    /// Returns the idle timeout and the hold timeout. Both apply to partitions that have no new records.
    pub fn timeouts(&self) -> IdleTimeouts {
        IdleTimeouts {
            idle: self.run.idle_timeout,
            hold: self.run.hold_timeout,
        }
    }

    /// Returns the sliding span.
    pub fn span(&self) -> SlidingSpan {
        SlidingSpan {
            size: self.window,
            span_ms: self.span_ms,
        }
    }

    /// Returns the longest time from the start of a window to its close.
    pub fn longest_open(&self) -> Duration {
        Duration::from_millis(self.window.as_ms())
            .saturating_add(Duration::from_millis(self.run.lateness_ms))
            .saturating_add(self.run.hold_timeout)
    }

    /// Returns the identity of this run, which its progress records contain.
    pub fn identity(&self) -> RunIdentity {
        RunIdentity {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            process: self.run.cluster.as_ref().map_or(0, |cluster| cluster.index),
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
            text("--workers", &self.run.workers),
            text(
                "the id of the Kafka cluster",
                &cluster_id.unwrap_or_default(),
            ),
            text("--window", &Duration::from_millis(self.window.as_ms())),
            text("--lateness", &Duration::from_millis(self.run.lateness_ms)),
            text("--idle-timeout", &self.run.idle_timeout),
            text("--hold-timeout", &self.run.hold_timeout),
            text("--unbounded-timestamps", &self.run.unbounded_timestamps),
        ];
        let application = [
            text("the id of the application", &self.topics.application_id),
            text("the topics", &self.topics.all()),
            text(self.labels.span, &Duration::from_millis(self.span_ms)),
            text(
                self.labels.retention,
                &Duration::from_millis(self.retention_ms),
            ),
        ];
        let agreed = self.agreed.iter().cloned();
        ClusterSettings::new(own.into_iter().chain(agreed).chain(application).collect())
    }
}
