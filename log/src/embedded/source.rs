//! Sources of committed records: the database that this process has open, or another process that has it open.

use std::ops::Range;

use crate::{LogError, Record, TopicDescription};

/// Reads the topics of a log. Each call reads from a new snapshot.
pub trait Source: Send + Sync {
    /// Returns the settings of the topic, as [`Log::describe`](crate::Log::describe) does.
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError>;

    /// Returns the range of offsets of each partition, as [`Log::offsets`](crate::Log::offsets) does.
    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError>;

    /// Returns the offset of each partition at a time, as [`Log::offsets_at`](crate::Log::offsets_at) does.
    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError>;

    /// Passes records to `each`, starting at the offset `from`: at most `limit` records, and only until `each` returns
    /// `false`. The record for which `each` returns `false` is not consumed.
    ///
    /// If the process of the source is not reachable, the page is empty and is not marked as the end, so that readers
    /// continue when the process is reachable again.
    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<Page, LogError>;
}

/// The result of a [`Source::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Number of consumed records.
    pub count: usize,
    /// The offset to continue from.
    pub next: u64,
    /// Whether the partition had no more records when the page was read.
    pub at_end: bool,
}
