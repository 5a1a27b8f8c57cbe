//! The topic log, through which EmoStream's services communicate: ordered records in partitioned topics.
//!
//! ```text
//!   Appender ──append──▶ ┌───────────────┐ ──poll──▶ Reader   (committed records only, by offset)
//!                        │ topic / parts │
//! Transactor ──commit──▶ └───────────────┘            several topics at once, all or nothing
//! ```
//!
//! One small trait, [`Log`], with two implementations: [`kafka`] for a Kafka cluster, and [`embedded`] for one process
//! without a broker. The log stores bytes; it does not know emojis.
//!
//! Invariants of both implementations (the tests in `tests/suite.rs` run on both):
//! - The offsets of a partition rise; there may be gaps (transaction markers, compaction).
//! - A record is read either by all readers or by none; of a transaction, either all records are read or none.
//! - An acknowledged append is in the log once (but see [`Log::appender`]). A failed one is in the log at most once.
//! - Opening a [`Transactor`] fences every older one of the same id: it cannot commit any more.
//! - No method blocks unless its documentation says so, and every queue is bounded.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod embedded;
mod error;
mod event_clock;
pub mod kafka;
mod record;
mod scan;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod topic;
mod wake;

use std::{ops::Range, time::Duration};

pub use error::LogError;
pub use event_clock::EventClock;
pub use record::{Header, Headers, NewRecord, Record};
pub use scan::{StallTimer, read_from, read_last, read_since, read_to_end};
pub use topic::{Cleanup, Deletion, Timestamps, TopicDescription, TopicSpec};
pub use wake::{Wake, WakeSignal};

/// The end offsets of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOffsets {
    /// Last stable offset: every transaction below it is committed or aborted. Readers of committed records stop here.
    pub stable: u64,
    /// High watermark: the offset of the next record. It exceeds `stable` only while a transaction is open.
    pub end: u64,
}

/// The operations of a log; the services hold it as `Arc<dyn Log>`.
///
/// Every method may block for some seconds on a broker or a disk, except where its documentation says otherwise: call
/// it at start-up or on a thread of its own, not on a timely worker or in an async task.
pub trait Log: Send + Sync {
    /// Creates the topic unless it exists. An existing topic is not changed.
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError>;

    /// Returns the number of the topic's partitions. [`LogError::UnknownTopic`] if it does not exist.
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// Returns the topic's present settings. They do not include Kafka's topic id: librdkafka's safe interface does not
    /// return it.
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError>;

    /// Checks whether the log responds within `timeout`; the error contains the reason.
    fn answers(&self, topic: &str, timeout: Duration) -> Result<(), LogError>;

    /// Returns the permission that the log denies this client at present, if there is one.
    fn denied(&self) -> Option<LogError> {
        None
    }

    /// Returns the first stored offset of each partition and the offset of its next record, in the order of the
    /// partitions. Fails if the leader of a partition does not respond.
    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError>;

    /// Returns the end offsets of a partition at a moment after the call began: a record that was acknowledged before
    /// the call is below [`EndOffsets::end`].
    ///
    /// Waits at most `timeout` and does not retry: [`LogError::Unreachable`] while the partition has no leader that
    /// responds.
    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        timeout: Duration,
    ) -> Result<EndOffsets, LogError> {
        // In a log that shows a transaction only after its commit, both ends are equal.
        let _ = timeout;
        let offsets = self.offsets(topic)?;
        let kept = offsets.get(partition as usize);
        let end = kept.map(|kept| kept.end);
        let end = end.ok_or_else(|| LogError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
        })?;
        Ok(EndOffsets { stable: end, end })
    }

    /// Returns [`EndOffsets::end`] of each partition, in the order of the partitions. If a leader does not respond
    /// within `timeout`, its partitions have an error: the results of the other partitions are returned, and delayed by
    /// at most twice that time. Fails if no broker has reported the topic's partitions yet.
    fn high_watermarks(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> Result<Vec<Result<u64, LogError>>, LogError> {
        let _ = timeout;
        let offsets = self.offsets(topic)?;
        Ok(offsets.into_iter().map(|kept| Ok(kept.end)).collect())
    }

    /// Returns the id of the Kafka cluster; `None` for a log without one.
    fn cluster_id(&self) -> Option<String> {
        None
    }

    /// Returns the bootstrap addresses for Kafka's own tools; `None` for a log that is not Kafka.
    fn brokers(&self) -> Option<&str> {
        None
    }

    /// Returns the first offset of each partition whose record time is `time_ms` or later, in the order of the
    /// partitions; the end offset if there is none. Fails if the leader of a partition does not respond.
    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError>;

    /// Opens a reader of `topic` that starts at the given offset in each of the given partitions.
    ///
    /// The log calls `wake` on a thread of its own, possibly more often than necessary, when a partition may have new
    /// records. It must not block.
    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError>;

    /// Opens a reader for the present records of the topic: it detects the end of a partition sooner than
    /// [`Log::reader`], and sends more requests at the end.
    fn scanner(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.reader(topic, from, wake)
    }

    /// Opens an appender whose records are acknowledged, or refused for good, within `timeout`.
    ///
    /// When a record times out, librdkafka restarts its sequence numbers, and records that were sent with it or right
    /// after it may be in the log twice.
    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError>;

    /// Opens an appender that sends batches of at most `bytes`, for a topic with that limit: a larger record is
    /// refused, but no other record with it. A log that does not batch records has nothing to bound.
    fn bounded_appender(
        &self,
        timeout: Duration,
        bytes: u64,
    ) -> Result<Box<dyn Appender>, LogError> {
        let _ = bytes;
        self.appender(timeout)
    }

    /// Returns the offsets of a consumer group on `topic`, for tools that show its lag; `None` for a log without
    /// groups.
    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Option<Box<dyn GroupOffsets>>, LogError> {
        let _ = (group, topic);
        Ok(None)
    }

    /// Opens the only live transactor of this id. Returns when every older one is fenced and its open transaction is
    /// aborted. The log aborts a commit that takes longer than `timeout`.
    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError>;
}

/// Reads committed records, partition by partition, so that the caller decides which partition may be ahead.
pub trait Reader: Send {
    /// Passes at most `limit` next records of `partition` to `each`. Returns their number. Does not block.
    fn poll(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>),
    ) -> Result<usize, LogError> {
        self.poll_while(partition, limit, &mut |record| {
            each(record);
            true
        })
    }

    /// As [`Reader::poll`], but a record for which `each` returns `false` is not consumed and ends the call: the next
    /// poll starts with it.
    ///
    /// Records that a poll leaves unread cause no further wake-up: poll until no record is returned before waiting.
    ///
    /// [`LogError::Expired`] if the log does not store the offset any more. An unreachable broker is not an error: the
    /// reader continues when the broker is back.
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError>;

    /// Returns the offset to resume from in `partition`: after all consumed records and known transaction markers.
    fn position(&self, partition: u32) -> u64;

    /// Returns whether the last poll of `partition` reached the end of the log at that time.
    fn at_end(&self, partition: u32) -> bool;
}

/// Callback that is called once with the result of an append: the offset, or why the record is not in the log. It is
/// called on a thread of the log and must not block.
pub type Done = Box<dyn FnOnce(Result<u64, LogError>) + Send>;

/// Appends single records, idempotently: a retry inside the log does not duplicate a record.
pub trait Appender: Send + Sync {
    /// Queues `record`. Does not block: returns [`LogError::Full`] if the bounded queue is full, and refuses an invalid
    /// record; then `done` is not called. Otherwise `done` is called exactly once, also if the appender is dropped
    /// before.
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError>;
}

/// Commits the offsets of a consumer group.
pub trait GroupOffsets: Send {
    /// Commits the next offset of each partition, best effort. Does not block.
    fn commit(&mut self, offsets: &[(u32, u64)]);
}

/// Commits many records in one atomic transaction. Fenced by its id.
pub trait Transactor: Send {
    /// Adds `records` to the transaction that the next commit ends, so that they are sent before all records of the
    /// transaction are known. The log may abort it if the commit does not follow within the timeout. May block while a
    /// queue is full. Records that are not committed are not read. For errors, see [`Transactor::commit`].
    fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError>;

    /// Commits `records` and all records written since the last commit, or none. Blocks until the commit is durable.
    /// Readers see the records at once on the embedded log; on Kafka some milliseconds later, since the transaction
    /// markers are written after the response, but always before a newer transactor of the same id is open.
    ///
    /// After any error the transactor cannot be used any more (its last transaction was aborted, or its outcome is
    /// unknown): open a new one, and read which records the log has.
    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError>;
}
