//! What a topic is made with.

use std::time::Duration;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its whole name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// How many brokers hold a copy. The embedded log has one and ignores it.
    pub replication: u32,
    /// What is thrown away, and when.
    pub cleanup: Cleanup,
    /// A record whose time is further ahead of the log's clock than this is refused.
    pub max_ahead: Option<Duration>,
}

/// What a topic throws away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Records older than `after`, and the oldest ones once a partition exceeds `bytes`.
    Delete {
        /// Kept at least this long.
        after: Duration,
        /// The most bytes a partition keeps; `None` for no limit.
        bytes: Option<u64>,
    },
    /// Every record but the newest of its key.
    Compact,
}
