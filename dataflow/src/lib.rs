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
//! and commits results with the progress. This crate defines the format of reactions, the [`topology`](topology()), and
//! the records of the results.
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

use std::{sync::Arc, time::Duration};

use emostream_log::Log;
use emostream_model::{EmojiNames, Topics, WindowSize};
use prometheus::Registry;

pub use emostream_streams::{
    Stop, StreamsError,
    cluster::Cluster,
    config::{HEARTBEAT, Limits, RunConfig},
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
    topics::Topics as StreamsTopics,
};
pub use topology::{EmoStream, application, topology};

/// The configuration of EmoStream.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics that EmoStream reads and writes.
    pub topics: Topics,
    /// The size of the tumbling windows.
    pub window: WindowSize,
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
    /// The settings that determine how often totals records are written.
    pub totals_pace: TotalsPace,
    /// Time without a final, in event time, after which a room is removed and its totals begin at 0 with its next
    /// final.
    pub totals_retention: Duration,
    /// The settings with which the process runs the application. The lateness must exceed the flush interval of the
    /// ingest plus the clock skew.
    pub run: RunConfig,
}

impl Config {
    /// Returns the default configuration with these topics.
    pub fn new(topics: Topics) -> Config {
        Config {
            topics,
            window: WindowSize::from_ms(2000).expect("the size of a window is above 0"),
            live: Duration::from_millis(250),
            swarm_size: 1000,
            trending_span: Duration::from_secs(60),
            trending_top: 10,
            emojis: EmojiNames::default(),
            totals_pace: TotalsPace::default(),
            totals_retention: Duration::from_secs(30 * 24 * 3600),
            run: RunConfig::default(),
        }
    }
}

/// The name of the setting with the number of emojis that make a swarm.
pub const SWARM_SIZE: &str = "swarm_size";

/// Returns the topics of EmoStream in the form that the engine uses.
pub fn streams_topics(topics: &Topics) -> StreamsTopics {
    let app = application(&Config::new(topics.clone())).expect("the default is valid");
    app.config().topics.clone()
}

/// Returns the topology as text, for `--describe`.
///
/// # Errors
///
/// Those of [`application`].
pub fn describe(config: &Config) -> Result<String, StreamsError> {
    Ok(application(config)?.describe())
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
    emostream_streams::runtime::run::run(application(&config)?, log, registry, stop, ready)
}
