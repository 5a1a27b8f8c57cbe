//! Settings of topics: of a topic to be created, and of an existing topic.

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
    /// Decides which records are deleted, and when.
    pub cleanup: Cleanup,
    /// Maximum time of a record ahead of the log's clock; the log refuses a record that exceeds it. If it is `None`,
    /// the embedded log has no limit, and Kafka has the brokers' default.
    pub max_ahead: Option<Duration>,
}

/// The rule by which a topic deletes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Deletes records that are older than `after`, and the oldest records of a partition that exceeds `bytes`.
    Delete {
        /// Age above which a record is deleted.
        after: Duration,
        /// Maximum bytes of a partition; `None` for no limit.
        bytes: Option<u64>,
    },
    /// Deletes all records except the newest of each key. Deletes the newest, too, if it is a tombstone (it has no
    /// value) that is older than a day.
    Compact,
}

/// Settings of an existing topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicDescription {
    /// Number of partitions.
    pub partitions: u32,
    /// Number of replicas of the partition that has the fewest. The embedded log has one.
    pub replication: u32,
    /// Number of brokers in the cluster, which limits the number of replicas. 1 for the embedded log.
    pub brokers: u32,
    /// Whether older records of a key are deleted.
    pub compacted: bool,
    /// The age and the partition size above which records are deleted. `None` if the topic is only compacted.
    pub deleted: Option<Deletion>,
    /// The source of record times, and the limit of future times.
    pub timestamps: Timestamps,
    /// Maximum bytes of a batch (Kafka's `max.message.bytes`). `None` for the embedded log, which has no batches.
    pub max_record_bytes: Option<u64>,
    /// Number of replicas that must have a record before it is acknowledged.
    pub min_in_sync: u32,
    /// Whether a replica without all acknowledged records may become the leader, so that the missing records are lost
    /// (Kafka's `unclean.leader.election.enable`).
    pub unclean_election: bool,
}

/// The source of record times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timestamps {
    /// The producer sets the time. The log refuses a record if its time is further ahead of the log's clock than
    /// `max_ahead`; `None` for no limit.
    Written {
        /// Maximum time of a record ahead of the log's clock.
        max_ahead: Option<Duration>,
    },
    /// The log sets the time when it appends the record (Kafka's `LogAppendTime`).
    Appended,
    /// The producer sets the time, on brokers before Kafka 3.6, which have no limit for future times.
    WrittenWithoutLimit,
}

/// Limits above which the oldest records of a topic are deleted.
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
