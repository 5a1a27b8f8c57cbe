//! Retention: a topic deletes its oldest records when they exceed its maximum age or size. A compacted topic deletes
//! the tombstones (records without a value) that are older than a day.

use std::time::Duration;

use redb::{ReadableTable, StorageError};

use super::{
    batch::Batch,
    tables::{PartitionId, millis, size_bytes},
    topics::Topics,
};
use crate::Cleanup;

/// Maximum number of records that a sweep deletes: some milliseconds of work, in which appends wait.
const SWEEP_RECORDS: usize = 5_000;

/// Minimum age of a tombstone that a compacted topic deletes; the same as Kafka's default (`delete.retention.ms`). A
/// reader that has read an older record of the key has this time to read the tombstone.
const TOMBSTONE_AGE: Duration = Duration::from_hours(24);

/// Deletes at most [`SWEEP_RECORDS`] records that exceed the retention of their topics. Returns whether there may be
/// more.
pub(super) fn sweep(
    batch: &mut Batch<'_>,
    topics: &Topics,
    now_ms: u64,
) -> Result<bool, redb::Error> {
    sweep_at_most(SWEEP_RECORDS, batch, topics, now_ms)
}

fn sweep_at_most(
    mut budget: usize,
    batch: &mut Batch<'_>,
    topics: &Topics,
    now_ms: u64,
) -> Result<bool, redb::Error> {
    for topic in topics.all() {
        for partition in 0..topic.partitions() {
            let partition_id = (topic.id, partition);
            budget -= match topic.cleanup {
                Cleanup::Delete { after, bytes } => {
                    trim(batch, partition_id, after, bytes, now_ms, budget)?
                }
                Cleanup::Compact => delete_tombstones(batch, partition_id, now_ms, budget)?,
            };
            if budget == 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Deletes the partition's tombstones that are older than [`TOMBSTONE_AGE`], and the entries of their keys in NEWEST.
/// Removes at most `budget` entries of TOMBSTONES, and returns their number.
///
/// The age of a tombstone is the time since its append, because a producer may set any time in a record.
fn delete_tombstones(
    batch: &mut Batch<'_>,
    partition_id: PartitionId,
    now_ms: u64,
    budget: usize,
) -> Result<usize, redb::Error> {
    let (id, partition) = partition_id;
    let kept_from_ms = now_ms.saturating_sub(millis(TOMBSTONE_AGE));
    let old = batch
        .tombstones
        .range((id, partition, 0, 0)..(id, partition, kept_from_ms, 0))?;
    let old = old.take(budget).map(|entry| Ok(entry?.0.value()));
    let old: Vec<_> = old.collect::<Result<_, StorageError>>()?;
    if old.is_empty() {
        return Ok(0);
    }
    let mut tail = batch.tail(partition_id);
    for at in &old {
        batch.tombstones.remove(at)?;
        let (.., offset) = *at;
        // If a newer record has replaced the tombstone, the tombstone is not in RECORDS any more, and the entry in
        // NEWEST belongs to the newer record, so it is kept.
        if let Some(removed) = batch.records.remove((id, partition, offset))? {
            let row = removed.value();
            tail.bytes = tail.bytes.saturating_sub(size_bytes(&row));
            if let Some(key) = row.1 {
                batch.newest.remove((id, partition, key))?;
            }
        }
    }
    // A tail is set even if only entries of replaced tombstones were removed, since the transaction is committed only if
    // a tail was set.
    batch.set_tail(partition_id, tail);
    Ok(old.len())
}

/// Returns whether retention deletes the oldest record of a partition. The record has the time `time_ms`, and the
/// partition has `kept_bytes`.
fn disposable(
    time_ms: u64,
    kept_bytes: u64,
    after: Duration,
    bytes: Option<u64>,
    now_ms: u64,
) -> bool {
    let age_ms = now_ms.saturating_sub(time_ms);
    u128::from(age_ms) > after.as_millis() || bytes.is_some_and(|most| kept_bytes > most)
}

/// Deletes the partition's oldest records that exceed the retention, at most `budget` of them. Returns their number.
fn trim(
    batch: &mut Batch<'_>,
    partition_id: PartitionId,
    after: Duration,
    bytes: Option<u64>,
    now_ms: u64,
    budget: usize,
) -> Result<usize, redb::Error> {
    let (id, partition) = partition_id;
    let mut tail = batch.tail(partition_id);
    let mut deleted = Vec::new();
    for entry in batch
        .records
        .range((id, partition, tail.start)..(id, partition, tail.next))?
        .take(budget)
    {
        let (at, row) = entry?;
        let row = row.value();
        if !disposable(row.0, tail.bytes, after, bytes, now_ms) {
            break;
        }
        tail.bytes = tail.bytes.saturating_sub(size_bytes(&row));
        tail.start = at.value().2 + 1;
        deleted.push(at.value());
    }
    if deleted.is_empty() {
        return Ok(0);
    }
    for at in &deleted {
        batch.records.remove(at)?;
    }
    let indexed = batch
        .times
        .range((id, partition, 0)..=(id, partition, u64::MAX))?;
    let mut outdated = Vec::new();
    for entry in indexed {
        let (at, offset) = entry?;
        if offset.value() >= tail.start {
            break;
        }
        outdated.push(at.value());
    }
    for at in outdated {
        batch.times.remove(at)?;
    }
    batch.set_tail(partition_id, tail);
    Ok(deleted.len())
}

#[cfg(test)]
mod tests;
