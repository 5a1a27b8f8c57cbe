//! Settings of topics: those to create a topic with, and those of an existing topic.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// The full name.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Number of replicas. The embedded log has one and ignores this.
    pub replication: u32,
    /// Number of replicas that must have a record before it is acknowledged (Kafka's `min.insync.replicas`). The
    /// embedded log ignores it.
    pub min_in_sync: u32,
    /// Which records are deleted, and when.
    pub cleanup: Cleanup,
    /// A record whose time is further ahead of the log's clock is refused.
    pub max_ahead: Option<Duration>,
}

/// Which records a topic deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Records older than `after`, and the oldest ones once a partition exceeds `bytes`.
    Delete {
        /// Minimum age of a deleted record.
        after: Duration,
        /// Maximum bytes of a partition; `None` for no limit.
        bytes: Option<u64>,
    },
    /// All records except the newest of each key, and also the newest if it has no value (a tombstone) and is older
    /// than a day.
    Compact,
}

/// Settings of an existing topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Number of partitions.
    pub partitions: u32,
    /// Number of replicas of the partition with the fewest. The embedded log has one.
    pub replication: u32,
    /// Number of brokers that could have a replica.
    pub brokers: u32,
    /// Whether older records of a key are deleted.
    pub compacted: bool,
    /// The age and the partition size at which records are deleted. `None` if there is no such limit.
    pub deleted: Option<Deletion>,
    /// The source of record times, and the limit of future times.
    pub timestamps: Timestamps,
    /// Maximum bytes of a record or a batch. `None` if only memory is the limit.
    pub max_record_bytes: Option<u64>,
    /// Number of replicas that must have a record before it is acknowledged.
    pub min_in_sync: u32,
    /// Whether a replica that does not have all acknowledged records may become the leader, so that they are lost.
    pub unclean_election: bool,
}

/// The source of record times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timestamps {
    /// The producer. A record is refused if its time is further ahead of the log's clock than `max_ahead`; `None` for
    /// no limit.
    Written {
        /// The limit.
        max_ahead: Option<Duration>,
    },
    /// The log at the time of the append (Kafka's `LogAppendTime`).
    Appended,
    /// The producer, on brokers before Kafka 3.6, which have no limit for future times.
    WrittenWithoutLimit,
}

/// Limits at which the oldest records of a topic are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// Maximum age; `None` for no limit.
    pub after: Option<Duration>,
    /// Maximum bytes of a partition; `None` for no limit.
    pub bytes: Option<u64>,
}

impl TopicDescription {
    /// Returns the description of a topic that is created by `spec` on one broker.
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
