//! The topic log, where EmoStream's services meet: ordered records in partitioned topics.
//!
//! ```text
//!   Appender ──append──▶ ┌───────────────┐ ──poll──▶ Reader   (committed records only, by offset)
//!                        │ topic / parts │
//! Transactor ──commit──▶ └───────────────┘            several topics at once, all or nothing
//! ```
//!
//! One small trait, [`Log`], and two implementations of it: [`kafka`] for a team's own cluster and
//! [`embedded`] for one process without any. The log knows bytes, never emojis.
//!
//! Invariants, for both implementations (one suite of tests, `tests/suite.rs`, runs on both):
//! - A partition's offsets rise; they may have gaps (transaction markers, compaction).
//! - A record is either read by every reader or by none; those of a transaction all appear, or none.
//! - An acknowledged append is in the log once (but see [`Log::appender`]). One that failed may be in the
//!   log at most once.
//! - Opening a [`Transactor`] fences every older one of the same id: it can never commit again.
//! - Nothing blocks but what says so, and every queue is bounded.

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
pub use wake::{Doorbell, Wake};

/// The two ends of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOffsets {
    /// Last stable offset: below it every transaction is decided, so readers of committed records get no
    /// further.
    pub stable: u64,
    /// High watermark: the offset that the next record will get. It exceeds `stable` only while a
    /// transaction is open.
    pub end: u64,
}

/// What a log does; the services hold it as `Arc<dyn Log>`.
///
/// Every method may wait for a broker or a disk, some seconds at most, except where it says
/// otherwise: call them at start-up or from a thread of their own, never from a timely worker or an
/// async task.
pub trait Log: Send + Sync {
    /// Creates the topic unless it exists. An existing topic is left as it is.
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError>;

    /// How many partitions the topic has now. [`LogError::UnknownTopic`] if there is no such topic.
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// What the topic is like now, by whomever it was made. Kafka's own id of a topic is not among it:
    /// librdkafka's safe interface does not tell it.
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError>;

    /// Asks whether the log answers now: an error that says why if it does not within `patience`.
    fn answers(&self, topic: &str, patience: Duration) -> Result<(), LogError>;

    /// The permission that the log denies this client at present, if it denies one.
    fn denied(&self) -> Option<LogError> {
        None
    }

    /// The first offset still kept of each partition, and the offset that its next record will get, in the order of
    /// the partitions. Fails if the leader of any partition does not answer.
    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError>;

    /// Where the partition ends, committed or not, as of a moment after the call began: a record that was
    /// acknowledged before the call lies below [`EndOffsets::end`].
    ///
    /// Waits `patience` at most, and does not ask again: [`LogError::Unreachable`] while the partition has no
    /// leader that answers.
    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        patience: Duration,
    ) -> Result<EndOffsets, LogError> {
        // A log that shows a transaction only once it is decided has one end.
        let _ = patience;
        let offsets = self.offsets(topic)?;
        let kept = offsets.get(partition as usize);
        let end = kept.map(|kept| kept.end);
        let end = end.ok_or_else(|| LogError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
        })?;
        Ok(EndOffsets { stable: end, end })
    }

    /// [`EndOffsets::end`] of each partition, in the order of the partitions. A leader that does not answer within
    /// `patience` is an error in the place of its partitions: the ends of the other partitions are neither hidden
    /// nor delayed by more than twice that. Fails if no broker has reported the topic's partitions so far.
    fn high_watermarks(
        &self,
        topic: &str,
        patience: Duration,
    ) -> Result<Vec<Result<u64, LogError>>, LogError> {
        let _ = patience;
        let offsets = self.offsets(topic)?;
        Ok(offsets.into_iter().map(|kept| Ok(kept.end)).collect())
    }

    /// The id of the cluster that holds the log; `None` for a log that has none.
    fn cluster_id(&self) -> Option<String> {
        None
    }

    /// The addresses by which Kafka's own tools reach the log; `None` for a log that is not Kafka.
    fn brokers(&self) -> Option<&str> {
        None
    }

    /// The first offset of each partition whose record time is at or after `time_ms`, in the order of the partitions;
    /// the end offset where there is none. Fails if the leader of any partition does not answer.
    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError>;

    /// A reader of `topic` that begins at the given offset in each of the given partitions.
    ///
    /// `wake` is called, from a thread of the log's and possibly more often than necessary, whenever
    /// a partition may have something new to poll. It must not block.
    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError>;

    /// Opens a reader for what the topic holds now: it finds the end of a partition sooner than that of
    /// [`Log::reader`], and sends more requests once it is there.
    fn scanner(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.reader(topic, from, wake)
    }

    /// An appender whose records are acknowledged, or refused for good, within `timeout`.
    ///
    /// When a record runs out of time, librdkafka begins to count anew, and those that were sent with it
    /// or right behind it may be in the log twice.
    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError>;

    /// An appender that sends at most `bytes` together, for a topic that takes no more: one record that is
    /// larger is refused, but never others with it. A log that sends each record by itself has nothing to bound.
    fn bounded_appender(
        &self,
        timeout: Duration,
        bytes: u64,
    ) -> Result<Box<dyn Appender>, LogError> {
        let _ = bytes;
        self.appender(timeout)
    }

    /// The offsets of a consumer group on `topic`, for tools that show its lag; `None` for a log without groups.
    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Option<Box<dyn GroupOffsets>>, LogError> {
        let _ = (group, topic);
        Ok(None)
    }

    /// The only live transactor of this id: returns once every older one is fenced and whatever it
    /// left unfinished is aborted. A commit that takes longer than `timeout` is aborted by the log.
    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError>;
}

/// Reads committed records, partition by partition, so that the caller decides which may run ahead.
pub trait Reader: Send {
    /// Hands at most `limit` next records of `partition` to `each` and returns how many. Never waits.
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

    /// As [`Reader::poll`], but a record for which `each` returns `false` is not consumed and ends the call:
    /// the next poll begins with it.
    ///
    /// What a poll leaves behind rings no bell again: poll until nothing comes before sleeping.
    ///
    /// An offset that the log no longer keeps is [`LogError::Expired`]. An error while a broker is
    /// away is not: the reader goes on by itself when the broker is back.
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError>;

    /// The offset to resume from in `partition`: behind everything handed out, transaction markers
    /// included where they are known.
    fn position(&self, partition: u32) -> u64;

    /// Whether the last poll of `partition` had read all that the log held then.
    fn at_end(&self, partition: u32) -> bool;
}

/// Told once what became of an append: its offset, or why it is not in the log. Called on a thread of
/// the log's; must not block.
pub type Done = Box<dyn FnOnce(Result<u64, LogError>) + Send>;

/// Appends single records, idempotently: a retry inside the log never doubles one.
pub trait Appender: Send + Sync {
    /// Queues `record`. Never waits: when the bounded queue is full it answers [`LogError::Full`],
    /// and what can be seen at once to be wrong it refuses; then `done` is not called. Otherwise
    /// `done` is called exactly once, even if the appender is dropped meanwhile.
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError>;
}

/// Publishes how far a group has read its topic.
pub trait GroupOffsets: Send {
    /// Commits the next offset of each partition, best effort; never waits.
    fn commit(&mut self, offsets: &[(u32, u64)]);
}

/// Commits many records in one atomic transaction. Fences by its id.
pub trait Transactor: Send {
    /// Adds `records` to the transaction that the next commit ends, so that they are on their way before
    /// all of it is known. A log may give it up if the commit does not follow within the timeout. May wait
    /// for room; of records that are never committed nothing is read. After an error as after a commit's.
    fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError>;

    /// All of `records` and what was written since the last commit, or none. Waits until it is durable. Readers see it at once on the embedded log;
    /// on Kafka some milliseconds later, for its markers are written behind the answer, but always
    /// before a newer transactor of the same id is open.
    ///
    /// After any error the transactor is of no more use (its last transaction was aborted, or its
    /// fate is unknown): open a new one, and read what the log holds.
    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError>;
}
