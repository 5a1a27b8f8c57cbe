//! The dataflow: reactions in the log, counted exactly once per room, emoji and window.
//!
//! ```text
//! [reactions] ─▶ read + decode + pre-aggregate ─▶ exchange (room) ─▶ tumble ─┬▶ live ──▶ [live]
//!                  partitions over workers                                   └▶ finals ─┬▶ totals
//!                                                                                       ├▶ trending
//!                                                                                       ▼    ▼
//!                 rejected records, marks of progress ────────────────────────────────▶ commit
//!                                                                  one transaction ──▶ [windows]
//!                                             [totals] [trending] [rejected] [progress]
//! ```
//!
//! Timely dataflow moves the data and knows when a window is complete; differential dataflow keeps
//! the totals and what is trending behind the pre-aggregation. The log alone holds state: the progress record, written
//! with the results, says where to read again.
//!
//! Invariants:
//! - A window is emitted when no partition can still send a reaction for it, and never again.
//! - Results and progress are one transaction, so kill -9 at any moment changes no final.
//! - The frontier behind the commit is what is durable: the sink gives a window's time up only when
//!   the log has acknowledged it.
//! - Stopping never closes a window: open ones stay open for the next run.

mod aggregate;
mod attempts;
mod clock;
mod cluster;
mod commit;
mod due;
mod end_offsets;
mod error;
mod fit;
mod follow;
mod holds;
mod idleness;
mod instances;
mod known_ends;
mod lifetimes;
mod live;
mod metrics;
mod partition;
mod progress;
mod read_ahead;
mod recovery;
mod registry;
mod rejections;
mod reset;
mod restoring;
mod results;
mod rooms;
mod run;
#[cfg(test)]
mod simulation;
mod sink;
mod slide;
mod source;
mod standby;
mod step;
mod stop;
mod stored_progress;
mod timers;
mod topic_settings;
mod topology;
mod totals;
mod trending;
mod tumble;
mod watchdog;
mod worker;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics, WindowSize};

use idleness::IdleTimeouts;
use results::Recording;
use trending::Span;

pub use cluster::Cluster;
pub use due::TotalsPace;
pub use error::DataflowError;
pub use fit::Misfit;
pub use progress::{
    AheadLimit, Former, LastRecord, PartitionProgress, Progress, Resets, RunIdentity, Settings,
};
pub use recovery::{consumer_group, transactional_id};
pub use reset::{
    Basis, FinalTime, FinalsAfter, Plan, Reset, ResetFrom, ResetRequest, plan, reset, stored,
};
pub use run::run;
pub use sink::HEARTBEAT;
pub use step::Limits;
pub use stop::Stop;
pub use topology::describe;

/// When the first run of this process began.
static STARTED_MS: LazyLock<u64> = LazyLock::new(|| EventClock::host().unix_ms());

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
    /// What is trending goes by it.
    pub(crate) fn span(&self) -> Span {
        Span {
            size: self.window,
            span_ms: self.trending_span.as_millis() as u64,
            top: self.trending_top,
        }
    }

    /// The retention of totals, milliseconds.
    pub(crate) fn retention_ms(&self) -> u64 {
        self.totals_retention.as_millis() as u64
    }

    /// The timeouts of partitions that bring nothing.
    pub(crate) fn timeouts(&self) -> IdleTimeouts {
        IdleTimeouts {
            idle: self.idle_timeout,
            hold: self.hold_timeout,
        }
    }

    /// Names this run in its progress.
    pub(crate) fn identity(&self) -> RunIdentity {
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

    /// What results become records by, after so many backward resets.
    pub(crate) fn recording(&self, resets: u64) -> Recording {
        Recording {
            resets,
            topics: self.topics.clone(),
            swarm_size: self.swarm_size,
        }
    }

    /// What the results depend on.
    pub fn settings(&self) -> Settings {
        Settings {
            reactions: self.topics.reactions(),
            window_ms: self.window.as_ms(),
            lateness_ms: self.lateness_ms,
            swarm_size: self.swarm_size,
        }
    }
}

/// What a dataflow that is ready does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// It reads and commits.
    Active,
    /// It waits until the active run is gone; names it, for people.
    Standby(String),
}

/// Notified of how the dataflow does: `Ok` once it reads and commits or stands by, `Err` with the reason while not.
pub type Ready = Arc<dyn Fn(Result<Activity, String>) + Send + Sync>;
