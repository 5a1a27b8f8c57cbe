//! Where committed records are read from: this process's own database, or the socket of the process
//! that holds it.

use std::ops::Range;

use crate::{LogError, Record, TopicDescription};

/// Reads by snapshot; a topic is named in each call, for the topics may be another process's.
pub(super) trait Source: Send + Sync {
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError>;

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError>;

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError>;

    /// Hands at most `limit` records from offset `from` on to `each`, until one is not consumed.
    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<Page, LogError>;
}

/// What a [`Source::read`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// How many records were handed out.
    pub(super) count: usize,
    /// Where to read on.
    pub(super) next: u64,
    /// Whether the log held no more then.
    pub(super) at_end: bool,
}
