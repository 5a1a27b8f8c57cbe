//! What a topic is made with, and what it turns out to be.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its whole name.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// How many brokers hold a copy. The embedded log has one and ignores it.
    pub replication: u32,
    /// How many of them must have a record before it is acknowledged (Kafka's `min.insync.replicas`). The embedded
    /// log ignores it.
    pub min_in_sync: u32,
    /// What is thrown away, and when.
    pub cleanup: Cleanup,
    /// A record whose time is further ahead of the log's clock than this is refused.
    pub max_ahead: Option<Duration>,
}

/// Which records a topic deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Records older than `after`, and the oldest ones once a partition exceeds `bytes`.
    Delete {
        /// Kept at least this long.
        after: Duration,
        /// The most bytes a partition keeps; `None` for no limit.
        bytes: Option<u64>,
    },
    /// Every record but the newest of its key, and the newest too if it has no value (a tombstone) and is older than a
    /// day.
    Compact,
}

/// A topic as it is, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// How many partitions.
    pub partitions: u32,
    /// How many brokers are to hold a copy; of the partition with the fewest. The embedded log has one.
    pub replication: u32,
    /// How many brokers could hold one.
    pub brokers: u32,
    /// Whether older records of a key are thrown away.
    pub compacted: bool,
    /// After which time records are thrown away, and how many bytes a partition may hold before its
    /// oldest are. `None` where neither ever happens.
    pub deleted: Option<Deletion>,
    /// What dates its records, and how far in the future.
    pub timestamps: Timestamps,
    /// A record, or what is sent together, of more bytes is refused. `None` where only memory is the limit.
    pub max_record_bytes: Option<u64>,
    /// How many replicas must have a record before it is acknowledged.
    pub min_in_sync: u32,
    /// Whether a replica that lacks acknowledged records may become the leader, which loses them.
    pub unclean_election: bool,
}

/// What dates a topic's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timestamps {
    /// The producer. A record dated further ahead of the log's clock than `max_ahead` is refused; `None`
    /// where none is.
    Written {
        /// The limit.
        max_ahead: Option<Duration>,
    },
    /// The log, when it appends them (Kafka's `LogAppendTime`).
    Appended,
    /// The producer, and the brokers are too old to know a limit of their future: before Kafka 3.6.
    WrittenWithoutLimit,
}

/// When a topic's oldest records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Once they are older than this; `None` for never.
    pub after: Option<Duration>,
    /// Once the partition holds more than this; `None` for no limit.
    pub bytes: Option<u64>,
}

impl TopicDescription {
    /// The topic that `spec` makes, where one broker could hold it.
    pub fn of(spec: &TopicSpec) -> Self {
        let (compacted, deleted) = match spec.cleanup {
            Cleanup::Compact => (true, None),
            Cleanup::Delete { after, bytes } => {
                let after = Some(after);
                (false, Some(Deletion { after, bytes }))
            }
        };
        Self {
            partitions: spec.partitions,
            replication: spec.replication,
            brokers: 1,
            compacted,
            deleted,
            timestamps: Timestamps::Written {
                max_ahead: spec.max_ahead,
            },
            max_record_bytes: None,
            min_in_sync: spec.min_in_sync,
            unclean_election: false,
        }
    }
}
