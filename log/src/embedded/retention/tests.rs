//! Compares retention with a model of a compacted topic.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]
use std::collections::{BTreeMap, HashMap};

use rand::RngExt;
use redb::ReadableDatabase;

use super::*;
use crate::{
    LogError, NewRecord,
    embedded::{
        batch::{Tail, accept, create_topic},
        source::Source,
        store::Store,
        tables::{NEWEST, PartitionId, RECORD_OVERHEAD_BYTES, TOMBSTONES},
    },
    testing::{keyed, rng, seeds, topic},
};

const TOPIC: &str = "table";
const PARTITIONS: u32 = 2;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A record as the model knows it.
#[derive(Debug, Clone, PartialEq)]
struct Kept {
    key: Vec<u8>,
    value: Vec<u8>,
    appended_ms: u64,
}

/// A model of a compacted topic, as Kafka documents it. The topic keeps the newest record of each key, and deletes this
/// record, too, if it is a tombstone that is older than a day. Each element has the kept records of a partition; the
/// key is the offset.
#[derive(Debug, Clone, Default)]
struct Model(Vec<BTreeMap<u64, Kept>>);

impl Model {
    fn append(&mut self, partition: u32, offset: u64, record: Kept) {
        let partition = &mut self.0[partition as usize];
        partition.retain(|_, other| other.key != record.key);
        partition.insert(offset, record);
    }

    fn is_old_tombstone(record: &Kept, now_ms: u64) -> bool {
        record.value.is_empty() && now_ms.saturating_sub(record.appended_ms) > DAY_MS
    }

    fn sweep(&mut self, now_ms: u64) {
        for partition in &mut self.0 {
            partition.retain(|_, record| !Model::is_old_tombstone(record, now_ms));
        }
    }
}

/// The log under test: its database, and the tails that the writer keeps in memory.
struct Fixture {
    store: Store,
    topics: Topics,
    tails: HashMap<PartitionId, Tail>,
}

impl Fixture {
    fn new() -> Self {
        let store = Store::in_memory().unwrap();
        let topics = Topics::default();
        let spec = topic(TOPIC, PARTITIONS, Cleanup::Compact);
        let created = create_topic(store.writable().unwrap(), &spec).unwrap();
        topics.add(created.unwrap());
        let tails = HashMap::new();
        Self {
            store,
            topics,
            tails,
        }
    }

    /// Runs `work` in one transaction. If the process `dies` before the commit, all of it is lost.
    fn transaction<T>(&mut self, dies: bool, work: impl FnOnce(&mut Batch<'_>, &Topics) -> T) -> T {
        let transaction = self.store.writable().unwrap().begin_write().unwrap();
        let mut batch = Batch::begin(&transaction, &self.tails).unwrap();
        let done = work(&mut batch, &self.topics);
        let changed = batch.finish().unwrap();
        // As in the writer, a batch without changes is not committed.
        if !dies && !changed.is_empty() {
            transaction.commit().unwrap();
            self.tails.extend(changed);
        }
        done
    }

    /// Runs one step of a sweep. Returns whether there is more to do.
    fn sweep(&mut self, dies: bool, budget: usize, now_ms: u64) -> bool {
        self.transaction(dies, |batch, topics| {
            sweep_at_most(budget, batch, topics, now_ms).unwrap()
        })
    }

    /// Returns the records that one poll at offset `from` reads, and the offset of the next poll.
    fn read(&self, partition: u32, from: u64, limit: usize) -> (Vec<(u64, Vec<u8>)>, u64) {
        let mut read = Vec::new();
        let page = self
            .store
            .read(TOPIC, partition, from, limit, &mut |record| {
                read.push((record.offset, record.value.to_vec()));
                true
            })
            .unwrap();
        (read, page.next)
    }

    /// Compares the tables with the model.
    fn check(&self, model: &Model) {
        let snapshot = self.store.writable().unwrap().begin_read().unwrap();
        let newest = snapshot.open_table(NEWEST).unwrap();
        let tombstones = snapshot.open_table(TOMBSTONES).unwrap();
        let indexed: Vec<(u32, u64, u64)> = tombstones
            .iter()
            .unwrap()
            .map(|entry| entry.unwrap().0.value())
            .map(|(_, partition, appended_ms, offset)| (partition, appended_ms, offset))
            .collect();
        let mut entries = 0;
        for (partition, expected) in (0..).zip(&model.0) {
            let (read, _) = self.read(partition, 0, usize::MAX);
            let value = |(offset, record): (&u64, &Kept)| (*offset, record.value.clone());
            assert_eq!(read, expected.iter().map(value).collect::<Vec<_>>());
            for (offset, record) in expected {
                let key = (0, partition, record.key.as_slice());
                assert_eq!(newest.get(key).unwrap().unwrap().value(), *offset);
                if record.value.is_empty() {
                    assert!(indexed.contains(&(partition, record.appended_ms, *offset)));
                }
            }
            entries += expected.len();
            let bytes = |record: &Kept| (record.key.len() + record.value.len()) as u64;
            let bytes = expected
                .values()
                .map(|it| bytes(it) + RECORD_OVERHEAD_BYTES);
            let tail = self.tails.get(&(0, partition)).copied();
            assert_eq!(tail.unwrap_or_default().bytes, bytes.sum::<u64>());
        }
        assert_eq!(newest.iter().unwrap().count(), entries);
    }

    fn tombstone_entries(&self) -> usize {
        let snapshot = self.store.writable().unwrap().begin_read().unwrap();
        let tombstones = snapshot.open_table(TOMBSTONES).unwrap();
        tombstones.iter().unwrap().count()
    }
}

fn record(key: &str, value: &'static str, time_ms: Option<u64>) -> NewRecord {
    NewRecord {
        partition: Some(0),
        time_ms,
        ..keyed(TOPIC, key, value)
    }
}

fn append(
    batch: &mut Batch<'_>,
    topics: &Topics,
    new: NewRecord,
    now_ms: u64,
) -> Result<u64, LogError> {
    Ok(batch.append(accept(topics, new, now_ms)?).unwrap())
}

/// After any appends, sweeps in small steps, crashes and steps of the clock, the log has the same records as the model,
/// and readers read exactly these records.
#[test]
fn a_compacted_topic_keeps_what_the_model_keeps() {
    for seed in seeds(60) {
        let mut rng = rng(seed);
        let mut log = Fixture::new();
        let mut model = Model(vec![BTreeMap::new(); PARTITIONS as usize]);
        let mut now_ms = 1_764_000_000_000_u64;
        let mut readers = vec![0_u64; PARTITIONS as usize];
        for _ in 0..150 {
            now_ms += rng.random_range(0..8 * HOUR_MS);
            if rng.random_bool(0.05) {
                now_ms -= rng.random_range(0..2 * DAY_MS);
            }
            let dies = rng.random_bool(0.2);
            if rng.random_bool(0.6) {
                let mut after = model.clone();
                log.transaction(dies, |batch, topics| {
                    for _ in 0..rng.random_range(1..6) {
                        let partition = rng.random_range(0..PARTITIONS);
                        let key = format!("room-{}", rng.random_range(0..6));
                        let value = ["", "", "1", "22"][rng.random_range(0..4)];
                        // The age of a tombstone does not depend on the time in its record.
                        let time_ms = rng.random_bool(0.5);
                        let time_ms = time_ms.then(|| now_ms - rng.random_range(0..9 * DAY_MS));
                        let new = NewRecord {
                            partition: Some(partition),
                            ..record(&key, value, time_ms)
                        };
                        let offset = append(batch, topics, new, now_ms).unwrap();
                        let kept = Kept {
                            key: key.into_bytes(),
                            value: value.as_bytes().to_vec(),
                            appended_ms: now_ms,
                        };
                        after.append(partition, offset, kept);
                    }
                });
                if !dies {
                    model = after;
                }
            } else {
                let budget = rng.random_range(1..8);
                let entries = log.tombstone_entries();
                let more = log.sweep(dies, budget, now_ms);
                let removed = entries - log.tombstone_entries();
                assert!(removed <= budget, "{removed} of at most {budget}");
                if dies {
                    assert_eq!(removed, 0);
                } else if more {
                    // This step of the sweep used its whole budget, so the next steps delete the rest.
                    assert_eq!(removed, budget);
                    let steps = (0..entries).take_while(|_| log.sweep(false, budget, now_ms));
                    assert!(steps.count() <= entries / budget);
                    model.sweep(now_ms);
                } else {
                    model.sweep(now_ms);
                }
            }
            log.check(&model);
            let partition = rng.random_range(0..PARTITIONS);
            let from = &mut readers[partition as usize];
            let limit = rng.random_range(1..4);
            let (read, next) = log.read(partition, *from, limit);
            let rest = model.0[partition as usize].range(*from..);
            let rest = rest.map(|(offset, record)| (*offset, record.value.clone()));
            assert_eq!(read, rest.take(limit).collect::<Vec<_>>());
            *from = if rng.random_bool(0.1) { 0 } else { next };
        }
        now_ms += 10 * DAY_MS;
        while log.sweep(false, 3, now_ms) {}
        model.sweep(now_ms);
        log.check(&model);
        assert_eq!(log.tombstone_entries(), 0, "TOMBSTONES still has entries");
    }
}

#[test]
fn a_tombstone_is_kept_for_a_day_and_then_deleted() {
    let mut log = Fixture::new();
    let start_ms = 10 * DAY_MS;
    log.transaction(false, |batch, topics| {
        append(batch, topics, record("a", "1", None), start_ms).unwrap();
        append(batch, topics, record("a", "", Some(0)), start_ms).unwrap();
    });
    for (now_ms, kept) in [(start_ms + DAY_MS, 1), (start_ms + DAY_MS + 1, 0)] {
        log.sweep(false, SWEEP_RECORDS, now_ms);
        assert_eq!(log.read(0, 0, 10).0.len(), kept, "{now_ms}");
    }
    assert_eq!(log.tails[&(0, 0)].bytes, 0);
}

#[test]
fn a_key_that_is_written_again_outlives_its_tombstone() {
    let mut log = Fixture::new();
    let start_ms = 10 * DAY_MS;
    log.transaction(false, |batch, topics| {
        append(batch, topics, record("a", "", None), start_ms).unwrap();
    });
    log.transaction(false, |batch, topics| {
        append(batch, topics, record("a", "2", None), start_ms + 1).unwrap();
    });
    log.sweep(false, SWEEP_RECORDS, start_ms + 3 * DAY_MS);
    assert_eq!(log.tombstone_entries(), 0);
    log.transaction(false, |batch, topics| {
        append(batch, topics, record("a", "3", None), start_ms + 3 * DAY_MS).unwrap();
    });
    assert_eq!(log.read(0, 0, 10).0, [(2, b"3".to_vec())]);
}
