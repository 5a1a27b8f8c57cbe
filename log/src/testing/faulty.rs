//! A log with faults that a test sets: calls that fail, wait or return nothing.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::DEADLINE;
use crate::{
    Appender, Done, EndOffsets, GroupOffsets, Log, LogError, NewRecord, Reader, Record,
    TopicDescription, TopicSpec, Transactor, Wake,
};

type Hook = Box<dyn Fn(&str) + Send + Sync>;
type Commit =
    dyn Fn(&mut dyn Transactor, Vec<NewRecord>) -> Result<(), LogError> + Send + Sync + 'static;

/// The result of appends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Appends {
    /// Appends are stored.
    #[default]
    Stored,
    /// Appends are queued and time out at once.
    TimeOut,
    /// The queue is full.
    Full,
    /// Appends are queued and not acknowledged until they are [released](FaultyLog::release).
    Held,
}

/// The result of polls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reads {
    /// Polls return records.
    #[default]
    Work,
    /// Polls fail.
    Fail,
    /// Polls return no records, as if no broker was reachable.
    Stall,
}

/// Wraps a log and adds faults. All calls without a fault are forwarded to the wrapped log.
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// use emostream_log::{Log, embedded::EmbeddedLog, testing::{Appends, FaultyLog, record}};
///
/// let log = FaultyLog::new(Arc::new(EmbeddedLog::in_memory().unwrap()));
/// log.appends(Appends::Full);
/// let appender = log.appender(Duration::from_secs(1)).unwrap();
/// assert!(appender.append(record("t", "value"), Box::new(|_| {})).is_err());
/// ```
pub struct FaultyLog {
    log: Arc<dyn Log>,
    before_offsets: Hook,
    before_transactor: Hook,
    commit: Option<Arc<Commit>>,
    appending: Arc<Appending>,
    reading: Arc<Reading>,
}

#[derive(Default)]
struct Appending {
    /// The result of appends. The second value, if there is one, is a partition with a result of its own.
    mode: Mutex<(Appends, Option<(u32, Appends)>)>,
    held: Mutex<Vec<(NewRecord, Done)>>,
}

#[derive(Default)]
struct Reading {
    mode: Mutex<Reads>,
    empty_polls: AtomicUsize,
}

impl FaultyLog {
    /// Returns a log that behaves as `log` until a fault is set.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            before_offsets: Box::new(|_| {}),
            before_transactor: Box::new(|_| {}),
            commit: None,
            appending: Arc::default(),
            reading: Arc::default(),
        }
    }

    /// Sets a hook that is called with the topic before each request for offsets.
    pub fn before_offsets(self, hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let before_offsets = Box::new(hook);
        Self {
            before_offsets,
            ..self
        }
    }

    /// Sets a hook that is called with the id before each transactor is opened, which fences older ones.
    pub fn before_transactor(self, hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let before_transactor = Box::new(hook);
        Self {
            before_transactor,
            ..self
        }
    }

    /// Sets a function that is called instead of each commit, with the transactor of the wrapped log and all records of
    /// the transaction.
    pub fn on_commit(
        self,
        commit: impl Fn(&mut dyn Transactor, Vec<NewRecord>) -> Result<(), LogError>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let commit = Some(Arc::new(commit) as Arc<Commit>);
        Self { commit, ..self }
    }

    /// Sets the result of all appends after this call.
    pub fn appends(&self, mode: Appends) {
        *self.appending.mode.lock().unwrap() = (mode, None);
    }

    /// Sets the result of appends to one partition. Appends to other partitions are stored.
    pub fn appends_to(&self, partition: u32, mode: Appends) {
        *self.appending.mode.lock().unwrap() = (Appends::Stored, Some((partition, mode)));
    }

    /// Stores the oldest of the held records, at most `count`.
    pub fn release(&self, count: usize) {
        let appender = self.log.appender(DEADLINE).unwrap();
        let mut held = self.appending.held.lock().unwrap();
        let count = count.min(held.len());
        for (record, done) in held.drain(..count) {
            appender.append(record, done).unwrap();
        }
    }

    /// Stores the held appends, and all appends after this call.
    pub fn store(&self) {
        self.appends(Appends::Stored);
        self.release(usize::MAX);
    }

    /// Sets the result of all polls after this call.
    pub fn reads(&self, mode: Reads) {
        *self.reading.mode.lock().unwrap() = mode;
    }

    /// Returns the number of polls of all readers that found no record.
    pub fn empty_polls(&self) -> usize {
        self.reading.empty_polls.load(Ordering::SeqCst)
    }

    fn faulty_reader(&self, reader: Box<dyn Reader>) -> Box<dyn Reader> {
        let reading = self.reading.clone();
        Box::new(FaultyReader { reader, reading })
    }

    fn faulty_appender(&self, appender: Box<dyn Appender>) -> Box<dyn Appender> {
        let appending = self.appending.clone();
        Box::new(FaultyAppender {
            appender,
            appending,
        })
    }
}

impl Log for FaultyLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.log.create_topic(spec)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        self.log.describe(topic)
    }

    fn answers(&self, topic: &str, timeout: Duration) -> Result<(), LogError> {
        self.log.answers(topic, timeout)
    }

    fn denied(&self) -> Option<LogError> {
        self.log.denied()
    }

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        (self.before_offsets)(topic);
        self.log.offsets(topic)
    }

    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        timeout: Duration,
    ) -> Result<EndOffsets, LogError> {
        (self.before_offsets)(topic);
        self.log.end_offsets(topic, partition, timeout)
    }

    fn high_watermarks(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> Result<Vec<Result<u64, LogError>>, LogError> {
        (self.before_offsets)(topic);
        self.log.high_watermarks(topic, timeout)
    }

    fn cluster_id(&self) -> Option<String> {
        self.log.cluster_id()
    }

    fn brokers(&self) -> Option<&str> {
        self.log.brokers()
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        self.log.offsets_at(topic, time_ms)
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        Ok(self.faulty_reader(self.log.reader(topic, from, wake)?))
    }

    fn scanner(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        Ok(self.faulty_reader(self.log.scanner(topic, from, wake)?))
    }

    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        Ok(self.faulty_appender(self.log.appender(timeout)?))
    }

    fn bounded_appender(
        &self,
        timeout: Duration,
        bytes: u64,
    ) -> Result<Box<dyn Appender>, LogError> {
        Ok(self.faulty_appender(self.log.bounded_appender(timeout, bytes)?))
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Option<Box<dyn GroupOffsets>>, LogError> {
        self.log.group_offsets(group, topic)
    }

    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        (self.before_transactor)(id);
        let transactor = self.log.transactor(id, timeout)?;
        let Some(commit) = self.commit.clone() else {
            return Ok(transactor);
        };
        Ok(Box::new(FaultyTransactor {
            transactor,
            written: Vec::new(),
            commit,
        }))
    }
}

struct FaultyReader {
    reader: Box<dyn Reader>,
    reading: Arc<Reading>,
}

impl Reader for FaultyReader {
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError> {
        let mode = *self.reading.mode.lock().unwrap();
        match mode {
            Reads::Fail => Err(timed_out()),
            Reads::Stall => Ok(0),
            Reads::Work => {
                let read = self.reader.poll_while(partition, limit, each)?;
                if read == 0 {
                    self.reading.empty_polls.fetch_add(1, Ordering::SeqCst);
                }
                Ok(read)
            }
        }
    }

    fn position(&self, partition: u32) -> u64 {
        self.reader.position(partition)
    }

    fn at_end(&self, partition: u32) -> bool {
        self.reader.at_end(partition)
    }
}

struct FaultyAppender {
    appender: Box<dyn Appender>,
    appending: Arc<Appending>,
}

impl Appender for FaultyAppender {
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError> {
        let (all, one) = *self.appending.mode.lock().unwrap();
        let one = one.filter(|(partition, _)| record.partition == Some(*partition));
        match one.map_or(all, |(_, mode)| mode) {
            Appends::Stored => return self.appender.append(record, done),
            Appends::Full => return Err(LogError::Full),
            Appends::Held => self.appending.held.lock().unwrap().push((record, done)),
            Appends::TimeOut => done(Err(timed_out())),
        }
        Ok(())
    }
}

struct FaultyTransactor {
    transactor: Box<dyn Transactor>,
    /// Records that were written since the last commit.
    written: Vec<NewRecord>,
    commit: Arc<Commit>,
}

impl Transactor for FaultyTransactor {
    fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.written.extend(records);
        Ok(())
    }

    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.written.extend(records);
        (self.commit)(&mut *self.transactor, std::mem::take(&mut self.written))
    }
}

fn timed_out() -> LogError {
    LogError::TimedOut {
        detail: "no broker answers".to_owned(),
    }
}
