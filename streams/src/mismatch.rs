//! Differences between stored progress and the log.

use std::fmt;

/// A difference between stored progress and the log, because of which a run cannot continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressMismatch {
    /// Records of the source topic were deleted before they were counted.
    Expired {
        /// The partition.
        topic_partition: TopicPartition,
        /// The restart offset, from which a run must read the partition.
        resume: u64,
        /// The first offset that the log holds.
        start: u64,
    },
    /// The stored progress has offsets beyond the end of the partition.
    OffsetOutOfRange {
        /// The partition.
        topic_partition: TopicPartition,
        /// The committed offset (N), or the restart offset (R) if it is greater.
        read: u64,
        /// The end offset of the partition.
        end: u64,
    },
    /// The topic does not have a partition any more.
    PartitionRemoved {
        /// The partition.
        topic_partition: TopicPartition,
        /// The number of partitions that the topic has.
        partitions: u32,
    },
    /// Final results were deleted before a record of a table contained their counts.
    FinalsExpired {
        /// The partition.
        topic_partition: TopicPartition,
        /// The first offset from which a restart must read final results, since no record of a table may contain them.
        from: u64,
        /// The first offset that the log holds.
        start: u64,
    },
    /// The record at an offset is not the one that an earlier run has read at this offset.
    RecordChanged {
        /// The partition.
        topic_partition: TopicPartition,
        /// The offset of the record.
        offset: u64,
    },
}

/// A partition of a topic. It is displayed as `topic/partition`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartition {
    /// The name of the topic.
    pub topic: String,
    /// The number of the partition.
    pub partition: u32,
}

impl ProgressMismatch {
    /// Returns the number of the partition that differs.
    pub fn partition(&self) -> u32 {
        let (ProgressMismatch::Expired {
            topic_partition, ..
        }
        | ProgressMismatch::OffsetOutOfRange {
            topic_partition, ..
        }
        | ProgressMismatch::PartitionRemoved {
            topic_partition, ..
        }
        | ProgressMismatch::FinalsExpired {
            topic_partition, ..
        }
        | ProgressMismatch::RecordChanged {
            topic_partition, ..
        }) = self;
        topic_partition.partition
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Display for ProgressMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgressMismatch::Expired {
                topic_partition,
                resume,
                start,
            } => write!(
                f,
                "{topic_partition} must be read from offset {resume}, but begins at {start}: records were deleted before they were counted"
            ),
            ProgressMismatch::OffsetOutOfRange {
                topic_partition,
                read,
                end,
            } => write!(
                f,
                "{topic_partition} was read up to offset {read}, but ends at {end}: it was truncated or recreated"
            ),
            ProgressMismatch::PartitionRemoved {
                topic_partition,
                partitions,
            } => write!(
                f,
                "{topic_partition} was read, but the topic has {partitions} partitions now: it was recreated"
            ),
            ProgressMismatch::FinalsExpired {
                topic_partition,
                from,
                start,
            } => write!(
                f,
                "{topic_partition} must be read from offset {from} to complete the totals of some keys, but begins at {start}: finals were deleted before the totals contained them"
            ),
            ProgressMismatch::RecordChanged {
                topic_partition,
                offset,
            } => write!(
                f,
                "{topic_partition} has another record at offset {offset} than the one that was read: the topic was recreated"
            ),
        }
    }
}
