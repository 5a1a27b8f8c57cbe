//! What every test needs: a log to play on, and ways to wait without sleeping.

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
    Appender, Doorbell, Header, Log, LogError, NewRecord, Reader, TopicSpec,
    embedded::EmbeddedLog,
    kafka::{KafkaLog, KafkaOptions},
    testing::{keep_for, topic},
};
use tempfile::TempDir;

/// The appenders' and transactors' timeout.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A log, and topics of its own on it.
pub(crate) struct Stage {
    pub(crate) log: Arc<dyn Log>,
    prefix: String,
    _dir: Option<TempDir>,
}

pub(crate) fn in_memory() -> Stage {
    let log = Arc::new(EmbeddedLog::in_memory().unwrap());
    Stage {
        log,
        prefix: String::new(),
        _dir: None,
    }
}

pub(crate) fn on_disk() -> Stage {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(EmbeddedLog::open(dir.path()).unwrap());
    Stage {
        log,
        prefix: String::new(),
        _dir: Some(dir),
    }
}

pub(crate) fn on_kafka() -> Stage {
    let options = KafkaOptions {
        brokers: brokers(),
        ..KafkaOptions::default()
    };
    let log = Arc::new(KafkaLog::connect(options).unwrap());
    Stage {
        log,
        prefix: unique(),
        _dir: None,
    }
}

/// The test broker's address.
pub(crate) fn brokers() -> String {
    std::env::var("EMOSTREAM_TEST_KAFKA")
        .expect("no Kafka to test on: run `make test`, or tests/kafka/kafka.sh run cargo test")
}

/// A name no other test, and no earlier run on the same broker, has used.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{}-{}-{number}-", now_ms(), std::process::id())
}

impl Stage {
    /// A topic's name on this stage.
    pub(crate) fn name(&self, topic: &str) -> String {
        format!("{}{topic}", self.prefix)
    }

    /// Makes a topic that keeps its records for an hour.
    pub(crate) fn topic(&self, topic: &str, partitions: u32) -> String {
        let spec = spec(&self.name(topic), partitions);
        self.log.create_topic(&spec).unwrap();
        spec.name
    }

    pub(crate) fn appender(&self) -> Box<dyn Appender> {
        self.log.appender(TIMEOUT).unwrap()
    }

    /// Appends, waits, and answers the offset.
    pub(crate) fn append(&self, record: NewRecord) -> Result<u64, LogError> {
        append(self.appender().as_ref(), record)
    }

    /// A reader of all partitions from their beginnings, with its bell.
    pub(crate) fn reader(&self, topic: &str) -> (Box<dyn Reader>, Doorbell) {
        let partitions = self.log.partitions(topic).unwrap();
        let from: Vec<(u32, u64)> = (0..partitions).map(|partition| (partition, 0)).collect();
        self.reader_from(topic, &from)
    }

    pub(crate) fn reader_from(
        &self,
        topic: &str,
        from: &[(u32, u64)],
    ) -> (Box<dyn Reader>, Doorbell) {
        let bell = Doorbell::default();
        (self.log.reader(topic, from, bell.wake()).unwrap(), bell)
    }

    /// Returns when whatever the transactor of that name has committed can be read: at the latest when a
    /// newer one is open.
    pub(crate) fn settle(&self, transactor: &str) {
        let newer = self.log.transactor(&self.name(transactor), TIMEOUT);
        drop(newer.unwrap());
    }

    /// Everything that can be read in `topic` by now, by partition.
    pub(crate) fn all(&self, topic: &str) -> HashMap<u32, Vec<Owned>> {
        let (mut reader, bell) = self.reader(topic);
        let partitions = self.log.partitions(topic).unwrap();
        (0..partitions)
            .map(|partition| (partition, to_end(reader.as_mut(), &bell, partition)))
            .collect()
    }
}

/// A topic that keeps its records for an hour.
pub(crate) fn spec(name: &str, partitions: u32) -> TopicSpec {
    topic(name, partitions, keep_for(Duration::from_secs(3600)))
}

/// Appends and waits for the acknowledgement.
pub(crate) fn append(appender: &dyn Appender, record: NewRecord) -> Result<u64, LogError> {
    let (told, answered) = channel();
    appender.append(record, Box::new(move |result| drop(told.send(result))))?;
    answer(&answered)
}

/// Queues, and answers where the acknowledgement will come out.
pub(crate) fn queue(appender: &dyn Appender, record: NewRecord) -> Receiver<Result<u64, LogError>> {
    let (told, answer) = channel();
    appender
        .append(record, Box::new(move |result| drop(told.send(result))))
        .unwrap();
    answer
}

pub(crate) fn answer(answer: &Receiver<Result<u64, LogError>>) -> Result<u64, LogError> {
    answer
        .recv_timeout(DEADLINE)
        .expect("an append was never answered")
}

/// A record as it was read.
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

/// The texts of records.
pub(crate) fn texts(records: &[Owned]) -> Vec<&str> {
    records.iter().map(Owned::text).collect()
}

/// One poll.
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

/// One poll; what a full one left behind rings no bell, so this one does.
fn poll_on(reader: &mut dyn Reader, bell: &Doorbell, partition: u32, limit: usize) -> Vec<Owned> {
    let records = poll(reader, partition, limit).unwrap();
    if !records.is_empty() {
        bell.ring();
    }
    records
}

/// Reads on, sleeping on the bell, until `count` records came.
pub(crate) fn next(
    reader: &mut dyn Reader,
    bell: &Doorbell,
    partition: u32,
    count: usize,
) -> Vec<Owned> {
    let mut records = Vec::new();
    wait_until(bell, || {
        records.extend(poll_on(reader, bell, partition, count - records.len()));
        records.len() == count
    });
    records
}

/// Reads on until the end.
pub(crate) fn to_end(reader: &mut dyn Reader, bell: &Doorbell, partition: u32) -> Vec<Owned> {
    let mut records = Vec::new();
    wait_until(bell, || {
        records.extend(poll_on(reader, bell, partition, 1000));
        reader.at_end(partition)
    });
    records
}

/// Polls until an error comes.
pub(crate) fn until_error(reader: &mut dyn Reader, bell: &Doorbell, partition: u32) -> LogError {
    let mut error = None;
    wait_until(bell, || {
        error = poll(reader, partition, 1000).err();
        error.is_some()
    });
    error.unwrap()
}

/// Looks whenever the bell rings (and once a second, for what rings no bell) until it holds.
pub(crate) fn wait_until(bell: &Doorbell, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < until, "it never came");
        bell.wait(Duration::from_secs(1));
    }
}
