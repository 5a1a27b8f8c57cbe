//! Fixtures of the tests: a log with topics, and functions that wait for the log's wake-ups.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

pub(crate) use emostream_log::testing::{DEADLINE, keyed, now_ms, record};
use emostream_log::{
    Appender, Header, Log, LogError, NewRecord, Reader, TopicSpec, WakeSignal,
    embedded::EmbeddedLog,
    kafka::{KafkaLog, KafkaOptions},
    testing::{keep_for, topic},
};
use tempfile::TempDir;

/// Timeout of appenders and transactors.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A log, and a prefix for the names of its topics, since tests share a broker.
pub(crate) struct TestLog {
    pub(crate) log: Arc<dyn Log>,
    prefix: String,
    _dir: Option<TempDir>,
}

pub(crate) fn in_memory() -> TestLog {
    let log = Arc::new(EmbeddedLog::in_memory().unwrap());
    TestLog {
        log,
        prefix: String::new(),
        _dir: None,
    }
}

pub(crate) fn on_disk() -> TestLog {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(EmbeddedLog::open(dir.path()).unwrap());
    TestLog {
        log,
        prefix: String::new(),
        _dir: Some(dir),
    }
}

pub(crate) fn on_kafka() -> TestLog {
    let options = KafkaOptions {
        brokers: brokers(),
        ..KafkaOptions::default()
    };
    let log = Arc::new(KafkaLog::connect(options).unwrap());
    TestLog {
        log,
        prefix: unique(),
        _dir: None,
    }
}

/// Returns the address of the test broker.
pub(crate) fn brokers() -> String {
    std::env::var("EMOSTREAM_TEST_KAFKA")
        .expect("no Kafka to test on: run `make test`, or tests/kafka/kafka.sh run cargo test")
}

/// Returns a name that no other test, and no earlier run on the same broker, has used.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{}-{number}-", now_ms(), std::process::id())
}

impl TestLog {
    /// Returns the full name of a topic of this test.
    pub(crate) fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// Creates a topic that keeps its records for an hour.
    pub(crate) fn topic(&self, topic: &str, partitions: u32) -> String {
        let spec = spec(&self.name(topic), partitions);
        self.log.create_topic(&spec).unwrap();
        spec.name
    }

    pub(crate) fn appender(&self) -> Box<dyn Appender> {
        self.log.appender(TIMEOUT).unwrap()
    }

    /// Appends a record, waits until it is stored, and returns its offset.
    pub(crate) fn append(&self, record: NewRecord) -> Result<u64, LogError> {
        append(self.appender().as_ref(), record)
    }

    /// Opens a reader that starts at the beginning of all partitions. Returns it with the signal that wakes it.
    pub(crate) fn reader(&self, topic: &str) -> (Box<dyn Reader>, WakeSignal) {
        let partitions = self.log.partitions(topic).unwrap();
        let from: Vec<(u32, u64)> = (0..partitions).map(|partition| (partition, 0)).collect();
        self.reader_from(topic, &from)
    }

    pub(crate) fn reader_from(
        &self,
        topic: &str,
        from: &[(u32, u64)],
    ) -> (Box<dyn Reader>, WakeSignal) {
        let signal = WakeSignal::default();
        (self.log.reader(topic, from, signal.wake()).unwrap(), signal)
    }

    /// Waits until all commits of the transactor `transactor` can be read, by opening a newer transactor with the same
    /// id.
    pub(crate) fn settle(&self, transactor: &str) {
        let newer = self.log.transactor(&self.name(transactor), TIMEOUT);
        drop(newer.unwrap());
    }

    /// Returns all present records of `topic`, by partition.
    pub(crate) fn all(&self, topic: &str) -> HashMap<u32, Vec<Owned>> {
        let (mut reader, signal) = self.reader(topic);
        let partitions = self.log.partitions(topic).unwrap();
        (0..partitions)
            .map(|partition| (partition, to_end(reader.as_mut(), &signal, partition)))
            .collect()
    }
}

/// Returns the settings of a topic that keeps its records for an hour.
pub(crate) fn spec(name: &str, partitions: u32) -> TopicSpec {
    topic(name, partitions, keep_for(Duration::from_secs(3600)))
}

/// Appends a record, waits for the acknowledgement, and returns the record's offset.
pub(crate) fn append(appender: &dyn Appender, record: NewRecord) -> Result<u64, LogError> {
    let (results, answered) = channel();
    appender.append(record, Box::new(move |result| drop(results.send(result))))?;
    answer(&answered)
}

/// Queues a record. Returns the receiver of its result.
pub(crate) fn queue(appender: &dyn Appender, record: NewRecord) -> Receiver<Result<u64, LogError>> {
    let (results, answer) = channel();
    appender
        .append(record, Box::new(move |result| drop(results.send(result))))
        .unwrap();
    answer
}

pub(crate) fn answer(answer: &Receiver<Result<u64, LogError>>) -> Result<u64, LogError> {
    answer
        .recv_timeout(DEADLINE)
        .expect("an append was never answered")
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) time_ms: u64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<Header>,
}

impl Owned {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.value).unwrap()
    }
}

/// Returns the values of records as text.
pub(crate) fn texts(records: &[Owned]) -> Vec<&str> {
    records.iter().map(Owned::text).collect()
}

/// Polls once.
pub(crate) fn poll(
    reader: &mut dyn Reader,
    partition: u32,
    limit: usize,
) -> Result<Vec<Owned>, LogError> {
    let mut records = Vec::new();
    let count = reader.poll(partition, limit, &mut |record| {
        records.push(Owned {
            partition: record.partition,
            offset: record.offset,
            time_ms: record.time_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.to_vec(),
            headers: record.headers.read(),
        });
    })?;
    assert_eq!(count, records.len());
    assert!(count <= limit);
    Ok(records)
}

/// Polls once. Notifies the signal if there were records, since records that the poll left unread cause no wake-up.
fn poll_on(
    reader: &mut dyn Reader,
    signal: &WakeSignal,
    partition: u32,
    limit: usize,
) -> Vec<Owned> {
    let records = poll(reader, partition, limit).unwrap();
    if !records.is_empty() {
        signal.notify();
    }
    records
}

/// Reads `count` records. Waits on the signal while there are fewer.
pub(crate) fn next(
    reader: &mut dyn Reader,
    signal: &WakeSignal,
    partition: u32,
    count: usize,
) -> Vec<Owned> {
    let mut records = Vec::new();
    wait_until(signal, || {
        records.extend(poll_on(reader, signal, partition, count - records.len()));
        records.len() == count
    });
    records
}

/// Reads all records up to the end of the partition.
pub(crate) fn to_end(reader: &mut dyn Reader, signal: &WakeSignal, partition: u32) -> Vec<Owned> {
    let mut records = Vec::new();
    wait_until(signal, || {
        records.extend(poll_on(reader, signal, partition, 1000));
        reader.at_end(partition)
    });
    records
}

/// Polls until a poll returns an error. Returns the error.
pub(crate) fn until_error(
    reader: &mut dyn Reader,
    signal: &WakeSignal,
    partition: u32,
) -> LogError {
    let mut error = None;
    wait_until(signal, || {
        error = poll(reader, partition, 1000).err();
        error.is_some()
    });
    error.unwrap()
}

/// Checks the condition at each notification (and once per second) until it holds.
pub(crate) fn wait_until(signal: &WakeSignal, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "it never came");
        signal.wait(Duration::from_secs(1));
    }
}
