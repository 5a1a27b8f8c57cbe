//! The topic log, through which EmoStream's services communicate: ordered records in partitioned topics.
//!
//! ```text
//!   Appender ──append──▶ ┌───────────────┐ ──poll──▶ Reader   (committed records only, by offset)
//!                        │ topic / parts │
//! Transactor ──commit──▶ └───────────────┘            several topics at once, all or nothing
//! ```
//!
//! The trait [`Log`] has two implementations: [`kafka`] for a Kafka cluster, and [`embedded`] for one process without a
//! broker. The log stores bytes; it does not know emojis.
//!
//! Invariants of both implementations (the tests in `tests/suite.rs` run on both):
//! - The offsets of a partition rise. There may be gaps between them (transaction markers, compaction).
//! - Either all readers read a record, or none does. Either all records of a transaction are read, or none is.
//! - The record of an acknowledged append is in the log exactly once ([`Log::appender`] describes an exception), and
//!   the record of a failed append at most once.
//! - Opening a [`Transactor`] fences all older transactors with the same id: they cannot commit any more.
//! - A method blocks only if its documentation states this. Every queue is bounded.

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

/// The operations of a log. The services share a log as `Arc<dyn Log>`.
///
/// Every method may block for some seconds on a broker or a disk, unless its documentation excludes this. So
/// call the methods at start-up or on a separate thread, not on a timely worker or in an async task.
pub trait Log: Send + Sync {
    /// Creates the topic unless it exists. An existing topic is not changed.
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError>;

    /// Returns the number of partitions of the topic, or [`LogError::UnknownTopic`] if the topic does not exist.
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// Returns the current settings of the topic. They do not include Kafka's topic id, since rdkafka, the safe
    /// interface of librdkafka, does not return it.
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError>;

    /// Checks that the log responds within `timeout`. If it does not, the error contains the reason.
    fn answers(&self, topic: &str, timeout: Duration) -> Result<(), LogError>;

    /// Returns [`LogError::Denied`] with a permission that the log currently denies to this client, if there is one.
    fn denied(&self) -> Option<LogError> {
        None
    }

    /// Returns the range of offsets of each partition, in the order of the partitions: from the first stored offset to
    /// the offset of the next record (on Kafka, to the last stable offset). Fails if the leader of a partition does not
    /// respond.
    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError>;

    /// Returns the end offsets of a partition. They are requested after the call began, so a record that was
    /// acknowledged before the call is below [`EndOffsets::end`].
    ///
    /// Waits at most `timeout` and does not retry. Returns [`LogError::Unreachable`] if the partition has no leader, or
    /// if its leader does not respond.
    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        timeout: Duration,
    ) -> Result<EndOffsets, LogError> {
        // The default implementation is for a log that stores the records of a transaction only when it is committed:
        // both ends are equal.
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
    /// within `timeout`, its partitions have an error, and the other partitions still have a result; the call takes at
    /// most twice `timeout`. Fails if no broker has reported the topic's partitions yet.
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

    /// Returns the bootstrap servers of the Kafka cluster, as Kafka's own tools expect them; `None` for a log that is
    /// not on Kafka.
    fn brokers(&self) -> Option<&str> {
        None
    }

    /// Returns the offset of the first record of each partition whose time is `time_ms` or later, in the order of the
    /// partitions. If a partition has no such record, returns its end offset. Fails if the leader of a partition does
    /// not respond.
    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError>;

    /// Opens a reader of `topic` that starts at the given offset in each of the given partitions.
    ///
    /// When a partition may have new records, the log calls `wake` on one of the log's own threads, possibly more often
    /// than necessary. `wake` must not block.
    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError>;

    /// Opens a reader for a caller that stops at the current end of the topic. It detects the end of a partition sooner
    /// than a reader of [`Log::reader`], but sends more requests when it is at the end.
    fn scanner(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.reader(topic, from, wake)
    }

    /// Opens an appender. Each of its records is acknowledged or fails within `timeout`.
    ///
    /// When a record times out, librdkafka restarts its sequence numbers. Then records that were sent together with
    /// this record, or right after it, may be in the log twice.
    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError>;

    /// Opens an appender that sends batches of at most `bytes`, the size limit of the topic. Kafka refuses a larger
    /// batch as a whole; with this limit it refuses only a record that is too large itself. A log without batches
    /// ignores `bytes`.
    fn bounded_appender(
        &self,
        timeout: Duration,
        bytes: u64,
    ) -> Result<Box<dyn Appender>, LogError> {
        let _ = bytes;
        self.appender(timeout)
    }

    /// Returns a handle that commits offsets of a consumer group on `topic`, for tools that show the group's lag;
    /// `None` for a log without groups.
    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Option<Box<dyn GroupOffsets>>, LogError> {
        let _ = (group, topic);
        Ok(None)
    }

    /// Opens a transactor with this id. Returns when all older transactors with the id are fenced and their open
    /// transactions are aborted. A commit that takes longer than `timeout` fails.
    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError>;
}

/// Reads committed records. Each partition is polled separately, so that the caller decides how far to read in which
/// partition.
pub trait Reader: Send {
    /// Passes the next records of `partition`, at most `limit`, to `each`. Returns their number. Does not block.
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

    /// Passes records to `each` as [`Reader::poll`] does, until `each` returns `false`. The record for which it returns
    /// `false` is not consumed: the next poll starts with it.
    ///
    /// Records that a poll leaves unread cause no further wake-up. So a caller has to poll until no record is returned
    /// before it waits.
    ///
    /// Returns [`LogError::Expired`] if the log does not store the reader's offset any more. An unreachable broker is
    /// not an error: the reader continues when the broker is back.
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError>;

    /// Returns the offset from which to resume in `partition`. It is after all consumed records and all transaction
    /// markers that the reader knows of.
    fn position(&self, partition: u32) -> u64;

    /// Returns whether the last poll of `partition` reached the end of the log at that time.
    fn at_end(&self, partition: u32) -> bool;
}

/// Callback with the result of an append: the offset of the record, or the error. The log calls it once, on one of its
/// own threads, so it must not block.
pub type Done = Box<dyn FnOnce(Result<u64, LogError>) + Send>;

/// Appends single records, idempotently: if the log sends a record again, it still stores the record once.
pub trait Appender: Send + Sync {
    /// Queues `record` without blocking. Returns [`LogError::Full`] if the bounded queue is full, or another error if
    /// the record is refused at once; in both cases `done` is not called. Otherwise `done` is called exactly once, even
    /// if the appender is dropped before.
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError>;
}

/// Commits the offsets of a consumer group.
pub trait GroupOffsets: Send {
    /// Commits for each partition the offset of the next record to read. Does not block. A failed commit is only
    /// logged.
    fn commit(&mut self, offsets: &[(u32, u64)]);
}

/// Commits many records in one atomic transaction. A newer transactor with the same id fences this one.
pub trait Transactor: Send {
    /// Adds `records` to the open transaction, which the next [`Transactor::commit`] commits. So records can be sent
    /// before all records of the transaction are known. Records are not read before they are committed. The log may
    /// abort the transaction if the commit does not follow within the timeout. May block while a queue is full. An
    /// error has the same meaning as an error of [`Transactor::commit`].
    fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError>;

    /// Commits `records` and all records that were written since the last commit, or none of them. Blocks until the
    /// commit is durable. On the embedded log, readers see the records at once. On Kafka they see the records some
    /// milliseconds later, since the brokers write the transaction markers after the response, but always before a
    /// newer transactor with the same id is open.
    ///
    /// After any error the last transaction was aborted, or its outcome is unknown, and the transactor cannot be used
    /// any more. So open a new transactor, and read from the log whether the records are there.
    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError>;
}
