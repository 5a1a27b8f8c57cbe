//! Checks whether the log is still the one from which stored progress was computed.
//!
//! ```text
//!  start of the log        R          N        end
//!  ├───────────────────────┼──────────┼─────────┤   the log is valid
//!                          R before the start: records were deleted before they were counted
//!                          R or N after the end: the topic was truncated or recreated
//!                          another record before N: the topic was recreated, and is as long again
//! ```
//!
//! R is the restart offset of a partition, and N its committed offset.
//!
//! Kafka's topic id would identify a recreated topic, but the safe interface of librdkafka does not provide it. So the
//! last record that was read is compared instead: in another topic, the record at its offset has another time.

#![allow(clippy::disallowed_methods, reason = "waits for the log")]

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use emostream_log::{Log, LogError, StallTimer, WakeSignal};
use emostream_protocol::Unwritten;

use super::record::{LastRecord, PartitionProgress, Progress};
use crate::mismatch::{ProgressMismatch, TopicPartition};

/// Time for which the check is repeated if stored offsets are beyond the end of a partition: a broker that has just
/// become the leader of a partition may first report an end offset below one that was read before.
const LEADER_CHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval at which end offsets are checked again, and at which the last record is polled.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Returns the range of the offsets that each partition of `topic` contains, in the order of the partitions, and the
/// mismatches with `stored`.
pub fn compare(
    topic: &str,
    log: &dyn Log,
    stored: &Progress,
) -> Result<(Vec<Range<u64>>, Vec<ProgressMismatch>), LogError> {
    let mut kept = log.offsets(topic)?;
    let until = Instant::now() + LEADER_CHANGE_TIMEOUT;
    while stored.partitions.iter().any(|p| is_beyond(p, &kept)) && Instant::now() < until {
        std::thread::sleep(RETRY_INTERVAL);
        kept = log.offsets(topic)?;
    }
    let mut mismatches: Vec<ProgressMismatch> = stored
        .partitions
        .iter()
        .filter_map(|p| mismatch(topic, p, &kept))
        .collect();
    let comparable = stored.partitions.iter().filter_map(|p| {
        let seen = p.last?;
        let held = kept.get(p.partition as usize)?.contains(&seen.offset);
        held.then_some((p.partition, seen))
    });
    mismatches.extend(others(topic, log, comparable.collect())?);
    Ok((kept, mismatches))
}

/// Returns a mismatch if a partition of the topic of finals no longer contains all finals of `unwritten`, which a
/// restart needs to complete the tables.
pub fn missing_finals(
    topic: &str,
    log: &dyn Log,
    unwritten: &Unwritten,
) -> Result<Option<ProgressMismatch>, LogError> {
    let (Some(_), Some(finals)) = (unwritten.since, &unwritten.finals) else {
        return Ok(None);
    };
    let until = Instant::now() + LEADER_CHANGE_TIMEOUT;
    loop {
        let kept = log.offsets(topic)?;
        let all = finals.offsets.iter();
        let mismatches = all.filter_map(|(partition, from)| {
            let topic_partition = TopicPartition {
                topic: topic.to_owned(),
                partition: *partition,
            };
            match kept.get(*partition as usize) {
                None => Some(ProgressMismatch::PartitionRemoved {
                    topic_partition,
                    partitions: kept.len() as u32,
                }),
                Some(held) if *from > held.end => Some(ProgressMismatch::OffsetOutOfRange {
                    topic_partition,
                    read: *from,
                    end: held.end,
                }),
                Some(held) if *from < held.start => Some(ProgressMismatch::FinalsExpired {
                    topic_partition,
                    from: *from,
                    start: held.start,
                }),
                Some(_) => None,
            }
        });
        match mismatches.into_iter().next() {
            Some(ProgressMismatch::OffsetOutOfRange { .. }) if Instant::now() < until => {
                std::thread::sleep(RETRY_INTERVAL);
            }
            mismatch => return Ok(mismatch),
        }
    }
}

fn read_up_to(stored: &PartitionProgress) -> u64 {
    stored.read_offset.max(stored.resume_offset)
}

fn is_beyond(stored: &PartitionProgress, kept: &[Range<u64>]) -> bool {
    let kept = kept.get(stored.partition as usize);
    kept.is_some_and(|kept| read_up_to(stored) > kept.end)
}

/// Returns the mismatch that the offsets of a partition show, if there is one.
fn mismatch(
    topic: &str,
    stored: &PartitionProgress,
    kept: &[Range<u64>],
) -> Option<ProgressMismatch> {
    let topic_partition = TopicPartition {
        topic: topic.to_owned(),
        partition: stored.partition,
    };
    let Some(held) = kept.get(stored.partition as usize) else {
        return Some(ProgressMismatch::PartitionRemoved {
            topic_partition,
            partitions: kept.len() as u32,
        });
    };
    if is_beyond(stored, kept) {
        return Some(ProgressMismatch::OffsetOutOfRange {
            topic_partition,
            read: read_up_to(stored),
            end: held.end,
        });
    }
    (stored.resume_offset < held.start).then_some(ProgressMismatch::Expired {
        topic_partition,
        resume: stored.resume_offset,
        start: held.start,
    })
}

/// Returns a mismatch for each partition that has another record at the offset of the last record that was read.
fn others(
    topic: &str,
    log: &dyn Log,
    seen: Vec<(u32, LastRecord)>,
) -> Result<Vec<ProgressMismatch>, LogError> {
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    let mut unknown: BTreeMap<u32, LastRecord> = seen.into_iter().collect();
    let from: Vec<(u32, u64)> = unknown.iter().map(|(p, seen)| (*p, seen.offset)).collect();
    let signal = WakeSignal::default();
    let mut reader = log.scanner(topic, &from, signal.wake())?;
    let mut others = Vec::new();
    let mut stall = StallTimer::start();
    while !unknown.is_empty() {
        let mut known = Vec::new();
        for (partition, seen) in &unknown {
            let mut found = None;
            reader.poll(*partition, 1, &mut |record| {
                found = Some(LastRecord {
                    offset: record.offset,
                    time_ms: record.time_ms,
                });
            })?;
            if found.is_some() || reader.at_end(*partition) {
                known.push(*partition);
            }
            if found.map_or(reader.at_end(*partition), |found| found != *seen) {
                others.push(ProgressMismatch::RecordChanged {
                    topic_partition: TopicPartition {
                        topic: topic.to_owned(),
                        partition: *partition,
                    },
                    offset: seen.offset,
                });
            }
        }
        unknown.retain(|partition, _| !known.contains(partition));
        if !known.is_empty() {
            stall.reset();
        } else if !unknown.is_empty() {
            stall.check(log, topic)?;
            signal.wait(RETRY_INTERVAL);
        }
    }
    Ok(others)
}
