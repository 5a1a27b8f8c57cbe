//! Whether the log still is the one that stored progress was made from.
//!
//! ```text
//!  start of the log        R          N        end
//!  ├───────────────────────┼──────────┼─────────┤   fits
//!                          R before the start: deleted before it was counted
//!                          R or N behind the end: truncated, or recreated
//!                          another record before N: recreated, and as long again
//! ```
//!
//! Kafka's id of a topic would tell a recreated one at once, but librdkafka's safe interface does not
//! show it. The last record that was read serves instead: of another topic it has another time.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use emostream_log::{Doorbell, Log, LogError, StallTimer};
use emostream_model::Unwritten;

use crate::progress::{LastRecord, PartitionProgress, Progress};

/// A broker that has just taken a partition over may for a moment know of less than was read before.
const TAKEOVER: Duration = Duration::from_secs(2);

/// How often such a broker is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Why progress does not fit the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// Records were deleted before they were counted.
    Gone {
        /// `topic/partition`.
        place: Place,
        /// R.
        resume: u64,
        /// The first offset kept.
        start: u64,
    },
    /// More was read than the log holds.
    Beyond {
        /// `topic/partition`.
        place: Place,
        /// N, or R.
        read: u64,
        /// The next offset.
        end: u64,
    },
    /// There was a partition more.
    Vanished {
        /// `topic/partition`.
        place: Place,
        /// How many there are.
        partitions: u32,
    },
    /// Finals were deleted that no totals record holds.
    FinalsGone {
        /// `topic/partition`.
        place: Place,
        /// Where they begin at the earliest.
        from: u64,
        /// The first offset kept.
        start: u64,
    },
    /// Another record lies where one was read.
    Other {
        /// `topic/partition`.
        place: Place,
        /// Where.
        offset: u64,
    },
}

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: u32,
}

impl Misfit {
    /// Which partition it is about.
    pub fn partition(&self) -> u32 {
        let (Misfit::Gone { place, .. }
        | Misfit::Beyond { place, .. }
        | Misfit::Vanished { place, .. }
        | Misfit::FinalsGone { place, .. }
        | Misfit::Other { place, .. }) = self;
        place.partition
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Gone {
                place,
                resume,
                start,
            } => write!(
                f,
                "{place} must be read from offset {resume}, but begins at {start}: reactions were deleted before they were counted"
            ),
            Misfit::Beyond { place, read, end } => write!(
                f,
                "{place} was read up to offset {read}, but ends at {end}: it was truncated or recreated"
            ),
            Misfit::Vanished { place, partitions } => write!(
                f,
                "{place} was read, but the topic has {partitions} partitions now: it was recreated"
            ),
            Misfit::FinalsGone { place, from, start } => write!(
                f,
                "{place} must be read from offset {from} to complete the totals of some rooms, but begins at {start}: finals were deleted before the totals held them"
            ),
            Misfit::Other { place, offset } => write!(
                f,
                "{place} holds another record at offset {offset} than the one that was read: the topic was recreated"
            ),
        }
    }
}

/// What each partition of `topic` holds, by number, and where `stored` does not fit it.
pub fn compare(
    topic: &str,
    log: &dyn Log,
    stored: &Progress,
) -> Result<(Vec<Range<u64>>, Vec<Misfit>), LogError> {
    let mut kept = log.offsets(topic)?;
    let until = Instant::now() + TAKEOVER;
    while stored.partitions.iter().any(|p| is_beyond(p, &kept)) && Instant::now() < until {
        std::thread::sleep(ASK_AGAIN);
        kept = log.offsets(topic)?;
    }
    let mut misfits: Vec<Misfit> = stored
        .partitions
        .iter()
        .filter_map(|p| misfit(topic, p, &kept))
        .collect();
    let comparable = stored.partitions.iter().filter_map(|p| {
        let seen = p.last?;
        let held = kept.get(p.partition as usize)?.contains(&seen.offset);
        held.then_some((p.partition, seen))
    });
    misfits.extend(others(topic, log, comparable.collect())?);
    Ok((kept, misfits))
}

/// The first partition of the windows topic that does not hold the finals that `unwritten` names.
pub fn missing_finals(
    topic: &str,
    log: &dyn Log,
    unwritten: &Unwritten,
) -> Result<Option<Misfit>, LogError> {
    let (Some(_), Some(finals)) = (unwritten.since, &unwritten.finals) else {
        return Ok(None);
    };
    let until = Instant::now() + TAKEOVER;
    loop {
        let kept = log.offsets(topic)?;
        let all = finals.offsets.iter();
        let misfits = all.filter_map(|(partition, from)| {
            let place = Place {
                topic: topic.to_owned(),
                partition: *partition,
            };
            match kept.get(*partition as usize) {
                None => Some(Misfit::Vanished {
                    place,
                    partitions: kept.len() as u32,
                }),
                Some(held) if *from > held.end => Some(Misfit::Beyond {
                    place,
                    read: *from,
                    end: held.end,
                }),
                Some(held) if *from < held.start => Some(Misfit::FinalsGone {
                    place,
                    from: *from,
                    start: held.start,
                }),
                Some(_) => None,
            }
        });
        match misfits.into_iter().next() {
            Some(Misfit::Beyond { .. }) if Instant::now() < until => {
                std::thread::sleep(ASK_AGAIN);
            }
            misfit => return Ok(misfit),
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

/// What the offsets alone tell.
fn misfit(topic: &str, stored: &PartitionProgress, kept: &[Range<u64>]) -> Option<Misfit> {
    let place = Place {
        topic: topic.to_owned(),
        partition: stored.partition,
    };
    let Some(held) = kept.get(stored.partition as usize) else {
        return Some(Misfit::Vanished {
            place,
            partitions: kept.len() as u32,
        });
    };
    if is_beyond(stored, kept) {
        return Some(Misfit::Beyond {
            place,
            read: read_up_to(stored),
            end: held.end,
        });
    }
    (stored.resume_offset < held.start).then_some(Misfit::Gone {
        place,
        resume: stored.resume_offset,
        start: held.start,
    })
}

/// The partitions that hold another record where one was seen.
fn others(
    topic: &str,
    log: &dyn Log,
    seen: Vec<(u32, LastRecord)>,
) -> Result<Vec<Misfit>, LogError> {
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    let mut unknown: BTreeMap<u32, LastRecord> = seen.into_iter().collect();
    let from: Vec<(u32, u64)> = unknown.iter().map(|(p, seen)| (*p, seen.offset)).collect();
    let bell = Doorbell::default();
    let mut reader = log.scanner(topic, &from, bell.wake())?;
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
                others.push(Misfit::Other {
                    place: Place {
                        topic: topic.to_owned(),
                        partition: *partition,
                    },
                    offset: seen.offset,
                });
            }
        }
        unknown.retain(|partition, _| !known.contains(partition));
        if !known.is_empty() {
            stall.news();
        } else if !unknown.is_empty() {
            stall.check(log, topic)?;
            bell.wait(ASK_AGAIN);
        }
    }
    Ok(others)
}
