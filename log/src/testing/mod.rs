//! Test fixtures for all crates whose tests use a log (feature `testing`).
//!
//! The functions panic if the log fails, since a test that cannot continue has failed. [`FaultyLog`] is for tests of
//! failures.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]
#![allow(
    clippy::disallowed_methods,
    reason = "this module waits with a deadline"
)]

mod faulty;

use std::{
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proptest::test_runner::{RngAlgorithm, TestRng};

pub use self::faulty::{Appends, FaultyLog, Reads};
use crate::{Cleanup, Done, EventClock, Header, Log, LogError, NewRecord, TopicSpec, read_to_end};

/// Timeout of each wait in a test. It is so long that a slow host does not make a test fail.
pub const DEADLINE: Duration = Duration::from_secs(100);

/// Cleanup that keeps all records.
pub const KEEP: Cleanup = keep_for(Duration::from_secs(1 << 40));

/// Returns a cleanup that deletes records older than `after`.
pub const fn keep_for(after: Duration) -> Cleanup {
    Cleanup::Delete { after, bytes: None }
}

/// Returns the settings of a topic with replication factor 1 that accepts records of any time.
pub fn topic(name: impl Into<String>, partitions: u32, cleanup: Cleanup) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions,
        replication: 1,
        min_in_sync: 1,
        cleanup,
        max_ahead: None,
    }
}

/// Creates topics with these names, numbers of partitions and cleanups.
pub fn create_topics(log: &dyn Log, topics: impl IntoIterator<Item = (String, u32, Cleanup)>) {
    for (name, partitions, cleanup) in topics {
        log.create_topic(&topic(name, partitions, cleanup)).unwrap();
    }
}

/// Returns a record for partition 0, without time, key and headers.
pub fn record(topic: impl Into<String>, value: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        topic: topic.into(),
        partition: Some(0),
        time_ms: None,
        key: None,
        value: value.into(),
        headers: Vec::new(),
    }
}

/// Returns a record for the partition of its key, without time and headers.
pub fn keyed(topic: impl Into<String>, key: &str, value: impl Into<Bytes>) -> NewRecord {
    NewRecord {
        partition: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        ..record(topic, value)
    }
}

/// Returns a header with a text as its value.
pub fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.to_owned(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// Appends records in order, waits until all are stored, and returns their offsets.
pub fn append(log: &dyn Log, records: impl IntoIterator<Item = NewRecord>) -> Vec<u64> {
    let appender = log.appender(DEADLINE).unwrap();
    let queue = |record| {
        let (stored, outcome) = channel();
        let done: Done = Box::new(move |result| drop(stored.send(result)));
        appender.append(record, done).unwrap();
        outcome
    };
    let queued: Vec<_> = records.into_iter().map(queue).collect();
    let offset = |outcome: Receiver<Result<u64, LogError>>| outcome.recv_timeout(DEADLINE);
    let offsets = queued.into_iter().map(|it| offset(it).unwrap().unwrap());
    offsets.collect()
}

/// Returns the values of all records in a topic, partition by partition.
pub fn values(log: &dyn Log, topic: &str) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    read_to_end(log, topic, &mut |record| values.push(record.value.to_vec())).unwrap();
    values
}

/// Returns the time of the host clock, Unix milliseconds.
pub fn now_ms() -> u64 {
    EventClock::host().unix_ms()
}

/// Waits until the condition holds. Panics after [`DEADLINE`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "this did not happen in time: {what}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the seeds from 0 to `count - 1`, or only the seed in the environment variable `SEED`. Each seed is printed
/// when it is used, so that a failure can be replayed.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let one = std::env::var("SEED").map(|seed| seed.parse::<u64>().unwrap());
    let seeds = one.map_or(0..count, |seed| seed..seed + 1);
    seeds.inspect(|seed| println!("seed {seed}: replay with SEED={seed}"))
}

/// Returns the random number generator of a seed.
pub fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}
