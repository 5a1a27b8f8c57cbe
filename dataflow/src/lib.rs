//! EmoStream's dataflow: reactions in the log, counted exactly once per room, emoji and window.
//!
//! ```text
//! [reactions] ─▶ format ─▶ partial counts by room and emoji ─▶ tumbling windows ─┬▶ live ──▶ [live]
//!                                                                                └▶ finals ─┬▶ totals
//!                                                                                           ├▶ trending
//!                                                                                           ▼    ▼
//!                                                           [windows] [totals] [trending] ◀─ commit
//! ```
//!
//! [`EmoStream`] is an application of the engine in [`emostream_streams`], which reads, keeps event time, and commits
//! results with the progress. Here are the format of reactions, the operators that are used, and the records.
//!
//! Invariants:
//! - A window is emitted when no partition can still send a reaction for it, and never again.
//! - Results and progress are one transaction, so kill -9 at any moment changes no final.
//! - Stopping never closes a window: open ones stay open for the next run.

mod format;
mod restoring;
mod results;
#[cfg(test)]
mod simulation;
mod topology;

use std::{fmt::Debug, sync::Arc, time::Duration};

use emostream_log::{EventClock, Log};
use emostream_model::{Emoji, EmojiNames, Topics, WindowRecord, WindowSize};
use emostream_streams::{
    operators::sliding::SlidingSpan,
    progress::{record as progress, settings::Settings},
    topics::FinalSummary,
};
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
            AheadLimit, Former, LastRecord, PartitionProgress, Progress, Resets, RunIdentity,
        },
        settings::{LATENESS_MS, WINDOW_MS},
    },
    recovery::reset::{
        Basis, FinalTime, FinalsAfter, Plan, Reset, ResetFrom, ResetRequest, plan, reset,
    },
    runtime::run::{Activity, Ready},
};
pub use topology::{EmoStream, describe};

/// What a dataflow runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics it reads and writes.
    pub topics: Topics,
    /// Worker threads of this process.
    pub workers: usize,
    /// The processes that share the work; `None` for this one alone.
    pub cluster: Option<Cluster>,
    /// The size of the tumbling windows.
    pub window: WindowSize,
    /// How long a partition waits for stragglers; must exceed ingest's flush plus clock skew.
    pub lateness_ms: u64,
    /// How long a partition that gets nothing holds the others back.
    pub idle_timeout: Duration,
    /// How often a room's live tally is written at most.
    pub live: Duration,
    /// How many identical emojis make a swarm.
    pub swarm_size: u64,
    /// How long the sliding span of the trending emojis is: a whole multiple of the window.
    pub trending_span: Duration,
    /// How many trending emojis and rooms are shown.
    pub trending_top: usize,
    /// The emoji names that plain JSON records may use.
    pub emojis: EmojiNames,
    /// The clock that dates events: the one of the ingest and the log where they are in this process.
    pub clock: EventClock,
    /// How long a partition may hold time where the log does not show that it has been read to its end.
    pub hold_timeout: Duration,
    /// How long a transaction may take; at most the brokers' `transaction.max.timeout.ms`.
    pub commit_timeout: Duration,
    /// Whether it starts as a standby, which waits until no other run commits.
    pub standby: bool,
    /// How often progress is committed when there is nothing else to write: [`HEARTBEAT`] where there may be a standby.
    pub heartbeat: Duration,
    /// How long a standby sees no commit before it takes over; several times [`HEARTBEAT`].
    pub takeover: Duration,
    /// How often totals records are written.
    pub totals_pace: TotalsPace,
    /// Time without a final, in event time, after which a room is removed and its totals begin at 0 with its next
    /// final.
    pub totals_retention: Duration,
    /// Whether a reactions topic is accepted that takes records dated further in the future than the dataflow
    /// can judge.
    pub unbounded_timestamps: bool,
    /// Limits of the engine.
    pub limits: Limits,
}

impl Config {
    /// The sliding span of what is trending.
    pub(crate) fn span(&self) -> SlidingSpan {
        SlidingSpan {
            size: self.window,
            span_ms: self.trending_span.as_millis() as u64,
        }
    }

    /// The retention of totals, milliseconds.
    pub(crate) fn retention_ms(&self) -> u64 {
        self.totals_retention.as_millis() as u64
    }

    /// What the engine runs with.
    pub fn engine(&self) -> emostream_streams::config::Config {
        let topics = streams_topics(&self.topics);
        let open = Duration::from_millis(self.window.as_ms())
            + Duration::from_millis(self.lateness_ms)
            + self.hold_timeout;
        // Totals of a large room are due within a period, and written within half of the time for which finals are kept:
        // the other half is for a run that ends.
        let of_totals = 2 * (Duration::from_millis(self.totals_pace.period_ms) + open);
        let text = |name: &str, value: &dyn Debug| (name.to_owned(), format!("{value:?}"));
        let alias = |(name, emoji): (&String, &Emoji)| format!("{name}={emoji}");
        let aliases: Vec<String> = self.emojis.aliases().iter().map(alias).collect();
        emostream_streams::config::Config {
            settings: Settings::default()
                .with("reactions", "the reactions topic", topics.source.as_str())
                .with(WINDOW_MS, "--window (ms)", self.window.as_ms())
                .with(LATENESS_MS, "--lateness (ms)", self.lateness_ms)
                .with(SWARM_SIZE, "--swarm-size", self.swarm_size),
            agreed: vec![
                text("emostream's version", &env!("CARGO_PKG_VERSION")),
                text("--topic-prefix", &self.topics.prefix()),
                text("--window", &Duration::from_millis(self.window.as_ms())),
                text("--lateness", &Duration::from_millis(self.lateness_ms)),
                text("--idle-timeout", &self.idle_timeout),
                text("--hold-timeout", &self.hold_timeout),
                text("--unbounded-timestamps", &self.unbounded_timestamps),
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
            finals_needed: of_totals.max(self.trending_span + open),
            span_ms: self.span().span_ms,
            clock: self.clock.clone(),
        }
    }
}

/// The name of the setting that holds how many emojis make a swarm.
pub const SWARM_SIZE: &str = "swarm_size";

/// The topics of EmoStream as the engine knows them.
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
        tables: vec![topics.totals(), topics.trending()],
        updates: topics.live(),
        rejected: topics.rejected(),
        progress: topics.progress(),
    }
}

/// Runs until `stop` is requested (`Ok`) or it cannot go on (`Err`). Blocks: give it a thread.
pub fn run(
    config: Config,
    log: Arc<dyn Log>,
    registry: &Registry,
    stop: Stop,
    ready: Ready,
) -> Result<(), StreamsError> {
    emostream_streams::runtime::run::run(EmoStream::new(config), log, registry, stop, ready)
}
