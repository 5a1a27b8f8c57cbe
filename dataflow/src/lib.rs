//! The EmoStream application: counts the reactions in the log exactly once per room, emoji and window.
//!
//! ```text
//! [reactions] ─▶ format ─▶ partial counts by room and emoji ─▶ tumbling windows ─┬▶ live ──▶ [live]
//!                                                                                └▶ finals ─┬▶ totals
//!                                                                                           ├▶ trending
//!                                                                                           ▼    ▼
//!                                                           [windows] [totals] [trending] ◀─ commit
//! ```
//!
//! [`EmoStream`] is an application of the engine in [`emostream_streams`], which reads the source, keeps event time,
//! and commits results with the progress. This crate defines the format of reactions, the topology, and the records of
//! the results.
//!
//! Invariants:
//! - The final of a window is written once, after the frontier has passed the end of the window.
//! - Results and progress are written in one transaction, so `kill -9` at any time changes no final.
//! - A stop never closes a window: open windows stay open for the next run.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod format;
mod results;
#[cfg(test)]
mod simulation;
mod topology;

use std::{fmt::Debug, sync::Arc, time::Duration};

use emostream_log::{EventClock, Log};
use emostream_model::{Emoji, EmojiNames, Topics, WindowRecord, WindowSize};
use emostream_streams::{progress::settings::Settings, topics::FinalSummary};
use prometheus::Registry;

pub use emostream_streams::{
    Stop, StreamsError,
    cluster::Cluster,
    config::{HEARTBEAT, Limits},
    mismatch::ProgressMismatch,
    operators::schedule::TotalsPace,
    progress::{
        newest::stored,
        record::{
            AheadLimit, LastRecord, PartitionProgress, PriorEpoch, Progress, Resets, RunIdentity,
        },
        settings::{LATENESS_MS, WINDOW_MS},
    },
    recovery::reset::{
        Basis, FinalTime, FinalsAfter, Plan, Reset, ResetFrom, ResetRequest, plan, reset,
    },
    runtime::run::{Activity, Ready},
};
pub use topology::{EmoStream, describe};

/// The configuration of EmoStream.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics that EmoStream reads and writes.
    pub topics: Topics,
    /// Number of worker threads of this process.
    pub workers: usize,
    /// The processes that share the work; `None` if this process runs alone.
    pub cluster: Option<Cluster>,
    /// The size of the tumbling windows.
    pub window: WindowSize,
    /// Difference between the newest time in a partition and the partition's watermark, milliseconds. The lateness must
    /// exceed the flush interval of the ingest plus the clock skew.
    pub lateness_ms: u64,
    /// Time without new records after which a partition is quiet. The frontier passes over a quiet partition once the
    /// log confirms that the partition was read to its end.
    pub idle_timeout: Duration,
    /// Minimum time between two live tallies of a room.
    pub live: Duration,
    /// Number of identical emojis that make a swarm.
    pub swarm_size: u64,
    /// The length of the sliding span of the trending emojis: a whole multiple of the window.
    pub trending_span: Duration,
    /// Maximum number of trending emojis, and of trending rooms, in a record.
    pub trending_top: usize,
    /// The emoji names that plain JSON records may use.
    pub emojis: EmojiNames,
    /// The clock that sets the times of events. If the ingest and the log run in this process, they use this clock,
    /// too.
    pub clock: EventClock,
    /// Maximum time for which a quiet partition holds the frontier back while the log does not confirm that the
    /// partition was read to its end.
    pub hold_timeout: Duration,
    /// Timeout of a transaction. It must not exceed the brokers' `transaction.max.timeout.ms`.
    pub commit_timeout: Duration,
    /// Whether the process starts as a standby, which waits until no other run commits.
    pub standby: bool,
    /// Interval at which progress is committed while there are no results to write. It is [`HEARTBEAT`] if there may be
    /// a standby, which takes over when commits stop.
    pub heartbeat: Duration,
    /// Time without a commit after which a standby takes over. It is several times [`HEARTBEAT`], so that one delayed
    /// commit causes no takeover.
    pub takeover: Duration,
    /// The settings that determine how often totals records are written.
    pub totals_pace: TotalsPace,
    /// Time without a final, in event time, after which a room is removed and its totals begin at 0 with its next
    /// final.
    pub totals_retention: Duration,
    /// Whether to accept a reactions topic whose brokers do not reject records with timestamps far in the future.
    pub unbounded_timestamps: bool,
    /// Limits of the engine.
    pub limits: Limits,
}

impl Config {
    /// Returns the configuration of the engine.
    pub fn engine(&self) -> emostream_streams::config::Config {
        let topics = streams_topics(&self.topics);
        let text = |name: &str, value: &dyn Debug| (name.to_owned(), format!("{value:?}"));
        let alias = |(name, emoji): (&String, &Emoji)| format!("{name}={emoji}");
        let aliases: Vec<String> = self.emojis.aliases().iter().map(alias).collect();
        let config = emostream_streams::config::Config {
            settings: Settings::default()
                .with("reactions", "the reactions topic", topics.source.as_str())
                .with(WINDOW_MS, "--window (ms)", self.window.as_ms())
                .with(LATENESS_MS, "--lateness (ms)", self.lateness_ms)
                .with(SWARM_SIZE, "--swarm-size", self.swarm_size),
            agreed: vec![
                text("emostream's version", &env!("CARGO_PKG_VERSION")),
                text("--topic-prefix", &self.topics.prefix()),
                text("--live", &self.live),
                text("--swarm-size", &self.swarm_size),
                text("--totals-retention", &self.totals_retention),
                text("--trending-span", &self.trending_span),
                text("--trending-top", &self.trending_top),
                text("--emoji-alias", &aliases),
            ],
            topics,
            workers: self.workers,
            cluster: self.cluster.clone(),
            window: self.window,
            lateness_ms: self.lateness_ms,
            idle_timeout: self.idle_timeout,
            hold_timeout: self.hold_timeout,
            commit_timeout: self.commit_timeout,
            standby: self.standby,
            heartbeat: self.heartbeat,
            takeover: self.takeover,
            unbounded_timestamps: self.unbounded_timestamps,
            limits: self.limits,
            finals_needed: Duration::ZERO,
            span_ms: self.trending_span.as_millis() as u64,
            retention_ms: self.totals_retention.as_millis() as u64,
            clock: self.clock.clone(),
        };
        let open = config.longest_open();
        // The log must keep the finals of a large room until its totals record is written. This record is due within a
        // period, and must be written within half of the retention of finals, so the retention is twice that time. The
        // other half is for the time in which no run is active.
        let of_totals = 2 * (Duration::from_millis(self.totals_pace.period_ms) + open);
        emostream_streams::config::Config {
            finals_needed: of_totals.max(self.trending_span + open),
            ..config
        }
    }
}

/// The name of the setting with the number of emojis that make a swarm.
pub const SWARM_SIZE: &str = "swarm_size";

/// Returns the topics of EmoStream in the form that the engine uses.
pub fn streams_topics(topics: &Topics) -> emostream_streams::topics::Topics {
    emostream_streams::topics::Topics {
        application_id: format!("{}.dataflow", topics.prefix()),
        source: topics.reactions(),
        finals: topics.windows(),
        read_final: |value| {
            let closed: WindowRecord = serde_json::from_slice(value).ok()?;
            Some(FinalSummary {
                end_ms: closed.window.end,
                key: closed.room.to_string(),
                events: closed.total,
            })
        },
        totals: Some(topics.totals()),
        tops: Some(topics.trending()),
        updates: Some(topics.live()),
        rejected: topics.rejected(),
        progress: topics.progress(),
    }
}

/// Runs EmoStream until `stop` is requested. Blocks, so it should have a thread of its own.
///
/// # Errors
///
/// Returns the error because of which the run cannot continue.
pub fn run(
    config: Config,
    log: Arc<dyn Log>,
    registry: &Registry,
    stop: Stop,
    ready: Ready,
) -> Result<(), StreamsError> {
    emostream_streams::runtime::run::run(EmoStream::new(config), log, registry, stop, ready)
}
