//! A write transaction of the database. It has the records of one group commit.
//!
//! Every operation is either applied completely, or refused before it writes to a table. After a failure of the
//! database ([`redb::Error`]), the caller has to drop the whole batch.

use std::{collections::HashMap, sync::Arc};

use redb::{Database, ReadableTable, Table, WriteTransaction};

use super::{
    partitioner::partition_of,
    queue::record_bytes,
    tables::{
        FENCES, MAX_RECORD_BYTES, NEWEST, PARTITIONS, PartitionId, PartitionRow, RECORDS,
        RecordRow, TIMES, TOMBSTONES, TOPICS, encode_headers, size_bytes, topic_row,
    },
    topics::{Topic, Topics},
};
use crate::{Cleanup, LogError, NewRecord, TopicSpec};

/// The offsets, the size and the newest time of a partition. The writer keeps them in memory from batch to batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The first stored offset.
    pub(super) start: u64,
    /// The next offset.
    pub(super) next: u64,
    /// Approximate bytes of the stored records.
    pub(super) bytes: u64,
    /// The greatest time of all records so far, including deleted ones.
    pub(super) newest_ms: Option<u64>,
}

impl Tail {
    pub(super) fn of(row: PartitionRow) -> Self {
        let (start, next, bytes, newest_ms) = row;
        Self {
            start,
            next,
            bytes,
            newest_ms,
        }
    }

    fn row(self) -> PartitionRow {
        (self.start, self.next, self.bytes, self.newest_ms)
    }
}

/// A record that has passed all checks and can be appended.
pub(super) struct Accepted {
    topic: Arc<Topic>,
    partition: u32,
    time_ms: u64,
    /// Time of the append, Unix milliseconds. It differs from `time_ms` if the producer has set the time of the record.
    appended_ms: u64,
    headers: Vec<u8>,
    record: NewRecord,
}

/// The tables that one write transaction changes, and the new [`Tail`] of each changed partition.
pub(super) struct Batch<'txn> {
    pub(super) records: Table<'txn, (u32, u32, u64), RecordRow<'static>>,
    pub(super) times: Table<'txn, (u32, u32, u64), u64>,
    pub(super) newest: Table<'txn, (u32, u32, &'static [u8]), u64>,
    pub(super) tombstones: Table<'txn, (u32, u32, u64, u64), ()>,
    partitions: Table<'txn, PartitionId, PartitionRow>,
    known: &'txn HashMap<PartitionId, Tail>,
    changed: HashMap<PartitionId, Tail>,
}

impl<'txn> Batch<'txn> {
    /// Opens the tables. `known` has the [`Tail`] of each partition at the last commit.
    pub(super) fn begin(
        transaction: &'txn WriteTransaction,
        known: &'txn HashMap<PartitionId, Tail>,
    ) -> Result<Self, redb::Error> {
        Ok(Self {
            records: transaction.open_table(RECORDS)?,
            times: transaction.open_table(TIMES)?,
            newest: transaction.open_table(NEWEST)?,
            tombstones: transaction.open_table(TOMBSTONES)?,
            partitions: transaction.open_table(PARTITIONS)?,
            known,
            changed: HashMap::new(),
        })
    }

    /// Returns the [`Tail`] of the partition, including the changes of this batch.
    pub(super) fn tail(&self, partition_id: PartitionId) -> Tail {
        let known = || self.known.get(&partition_id).copied().unwrap_or_default();
        self.changed
            .get(&partition_id)
            .copied()
            .unwrap_or_else(known)
    }

    pub(super) fn set_tail(&mut self, partition_id: PartitionId, tail: Tail) {
        self.changed.insert(partition_id, tail);
    }

    /// Appends a record. Returns its offset.
    pub(super) fn append(&mut self, accepted: Accepted) -> Result<u64, redb::Error> {
        let Accepted {
            topic,
            partition,
            time_ms,
            appended_ms,
            headers,
            record,
        } = accepted;
        let partition_id = (topic.id, partition);
        let mut tail = self.tail(partition_id);
        let offset = tail.next;
        let key = record.key.as_deref();
        let row: RecordRow<'_> = (time_ms, key, &record.value, &headers);
        self.records.insert((topic.id, partition, offset), row)?;
        tail.next += 1;
        tail.bytes += size_bytes(&row);
        if tail.newest_ms.is_none_or(|newest| time_ms > newest) {
            tail.newest_ms = Some(time_ms);
            self.times.insert((topic.id, partition, time_ms), offset)?;
        }
        if let (Cleanup::Compact, Some(key)) = (topic.cleanup, key) {
            let superseded = self.newest.insert((topic.id, partition, key), offset)?;
            if let Some(old) = superseded.map(|old| old.value()) {
                let removed = self.records.remove((topic.id, partition, old))?;
                let freed = removed.map_or(0, |row| size_bytes(&row.value()));
                tail.bytes = tail.bytes.saturating_sub(freed);
            }
            if record.value.is_empty() {
                let at = (topic.id, partition, appended_ms, offset);
                self.tombstones.insert(at, ())?;
            }
        }
        self.set_tail(partition_id, tail);
        Ok(offset)
    }

    /// Writes the [`Tail`] of each changed partition to its table, and returns them.
    pub(super) fn finish(mut self) -> Result<HashMap<PartitionId, Tail>, redb::Error> {
        for (partition_id, tail) in &self.changed {
            self.partitions.insert(*partition_id, tail.row())?;
        }
        Ok(self.changed)
    }
}

/// Checks whether a new record can be appended: its partition, time, key and size. Changes nothing.
pub(super) fn accept(
    topics: &Topics,
    record: NewRecord,
    now_ms: u64,
) -> Result<Accepted, LogError> {
    let topic = topics.find(&record.topic)?;
    let partition = match (record.partition, &record.key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => partition_of(key, topic.partitions()),
        (None, None) => 0,
    };
    if partition >= topic.partitions() {
        return Err(LogError::UnknownPartition {
            topic: record.topic,
            partition,
        });
    }
    let time_ms = record.time_ms.unwrap_or(now_ms);
    let ahead_ms = time_ms.saturating_sub(now_ms);
    if topic
        .max_ahead
        .is_some_and(|most| u128::from(ahead_ms) > most.as_millis())
    {
        return Err(LogError::Ahead {
            topic: record.topic,
            ahead_ms,
        });
    }
    let bytes = record_bytes(&record);
    let not_accepted = |reason: &str| LogError::NotAccepted {
        topic: topic.name.clone(),
        bytes,
        reason: reason.to_owned(),
    };
    if topic.cleanup == Cleanup::Compact && record.key.is_none() {
        return Err(not_accepted(
            "the topic is compacted, so the record needs a key",
        ));
    }
    if bytes > MAX_RECORD_BYTES {
        let reason = format!("the embedded log accepts at most {MAX_RECORD_BYTES} bytes");
        return Err(not_accepted(&reason));
    }
    let headers = encode_headers(&record.headers)?;
    Ok(Accepted {
        topic,
        partition,
        time_ms,
        appended_ms: now_ms,
        headers,
        record,
    })
}

/// Creates and commits the topic. Returns the topic with its partitions at offset 0; `None` if the topic exists.
pub(super) fn create_topic(db: &Database, spec: &TopicSpec) -> Result<Option<Topic>, redb::Error> {
    let transaction = db.begin_write()?;
    let row = {
        let mut topics = transaction.open_table(TOPICS)?;
        if topics.get(spec.name.as_str())?.is_some() {
            return Ok(None);
        }
        let used = topics.iter()?.map(|entry| Ok(entry?.1.value().0));
        let id = used
            .collect::<Result<Vec<u32>, redb::Error>>()?
            .into_iter()
            .max()
            .map_or(0, |id| id + 1);
        let row = topic_row(id, spec);
        topics.insert(spec.name.as_str(), row)?;
        let mut partitions = transaction.open_table(PARTITIONS)?;
        for partition in 0..spec.partitions {
            partitions.insert((id, partition), Tail::default().row())?;
        }
        row
    };
    transaction.commit()?;
    Ok(Some(Topic::new(
        &spec.name,
        row,
        vec![0; spec.partitions as usize],
    )))
}

/// Returns the newest epoch of the transactor `id`, if it has one.
pub(super) fn epoch(transaction: &WriteTransaction, id: &str) -> Result<Option<u64>, redb::Error> {
    Ok(transaction
        .open_table(FENCES)?
        .get(id)?
        .map(|epoch| epoch.value()))
}

/// Gives the transactor `id` a new epoch, which fences all older transactors with this id. Returns the epoch.
pub(super) fn fence(transaction: &WriteTransaction, id: &str) -> Result<u64, redb::Error> {
    let next = epoch(transaction, id)?.map_or(1, |epoch| epoch + 1);
    transaction.open_table(FENCES)?.insert(id, next)?;
    Ok(next)
}
