//! What a topic throws away: from the oldest record on, what is too old or too much.

use std::time::Duration;

use redb::ReadableTable;

use super::{
    batch::Batch,
    tables::{Place, size_bytes},
    topics::Topics,
};
use crate::Cleanup;

/// The most records one sweep deletes, for appends wait meanwhile: some milliseconds of work.
const SWEEP_RECORDS: usize = 5_000;

/// Deletes at most [`SWEEP_RECORDS`] records that their topics need not keep. Whether there are more.
pub(super) fn sweep(
    batch: &mut Batch<'_>,
    topics: &Topics,
    now_ms: u64,
) -> Result<bool, redb::Error> {
    let mut budget = SWEEP_RECORDS;
    for topic in topics.all() {
        let Cleanup::Delete { after, bytes } = topic.cleanup else {
            continue;
        };
        for partition in 0..topic.partitions() {
            budget -= trim(batch, (topic.id, partition), after, bytes, now_ms, budget)?;
            if budget == 0 {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether the oldest record may go.
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

/// Deletes the partition's oldest records, `budget` at most, and answers how many.
fn trim(
    batch: &mut Batch<'_>,
    place: Place,
    after: Duration,
    bytes: Option<u64>,
    now_ms: u64,
    budget: usize,
) -> Result<usize, redb::Error> {
    let (id, partition) = place;
    let mut tail = batch.tail(place);
    let mut gone = Vec::new();
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
        gone.push(at.value());
    }
    if gone.is_empty() {
        return Ok(0);
    }
    for at in &gone {
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
    batch.set_tail(place, tail);
    Ok(gone.len())
}
