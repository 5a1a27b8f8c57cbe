//! Why stored progress does not fit the log.

use std::fmt;

/// Why progress does not fit the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressMismatch {
    /// Records were deleted before they were counted.
    Gone {
        /// `topic/partition`.
        place: Place,
        /// R.
        resume: u64,
        /// The first offset kept.
        start: u64,
    },
    /// More was read than the log holds.
    Beyond {
        /// `topic/partition`.
        place: Place,
        /// N, or R.
        read: u64,
        /// The next offset.
        end: u64,
    },
    /// There was a partition more.
    Vanished {
        /// `topic/partition`.
        place: Place,
        /// How many there are.
        partitions: u32,
    },
    /// Finals were deleted that no record of a table holds.
    FinalsGone {
        /// `topic/partition`.
        place: Place,
        /// Where they begin at the earliest.
        from: u64,
        /// The first offset kept.
        start: u64,
    },
    /// Another record lies where one was read.
    Other {
        /// `topic/partition`.
        place: Place,
        /// Where.
        offset: u64,
    },
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
}

impl ProgressMismatch {
    /// Which partition it is about.
    pub fn partition(&self) -> u32 {
        let (ProgressMismatch::Gone { place, .. }
        | ProgressMismatch::Beyond { place, .. }
        | ProgressMismatch::Vanished { place, .. }
        | ProgressMismatch::FinalsGone { place, .. }
        | ProgressMismatch::Other { place, .. }) = self;
        place.partition
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Display for ProgressMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProgressMismatch::Gone {
                place,
                resume,
                start,
            } => write!(
                f,
                "{place} must be read from offset {resume}, but begins at {start}: records were deleted before they were counted"
            ),
            ProgressMismatch::Beyond { place, read, end } => write!(
                f,
                "{place} was read up to offset {read}, but ends at {end}: it was truncated or recreated"
            ),
            ProgressMismatch::Vanished { place, partitions } => write!(
                f,
                "{place} was read, but the topic has {partitions} partitions now: it was recreated"
            ),
            ProgressMismatch::FinalsGone { place, from, start } => write!(
                f,
                "{place} must be read from offset {from} to complete the totals of some keys, but begins at {start}: finals were deleted before the totals held them"
            ),
            ProgressMismatch::Other { place, offset } => write!(
                f,
                "{place} holds another record at offset {offset} than the one that was read: the topic was recreated"
            ),
        }
    }
}
