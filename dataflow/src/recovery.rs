//! Where a run begins: fenced first, then read from the log.
//!
//! Invariant: progress is read only after every older run is fenced, so nobody can move it any more.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
    time::Duration,
};

use emostream_log::{Log, Record, Transactor, read_since, read_to_end};
use emostream_model::{Emoji, Room, Topics, TotalsRecord, Trending, TrendingRecord, WindowRecord};

use crate::{
    Config, DataflowError,
    clock::PartitionClock,
    fit::compare,
    progress::{FORMAT, Former, PartitionProgress, Progress},
    slide::Stay,
};

/// A transaction that takes longer is aborted by the log. Longer than a broker's short absence,
/// shorter than people's patience.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// A final's record is written after its window, by clocks that may differ: how much earlier than the
/// window's end its time may be at most. More than the five seconds that reactions may be ahead.
const WRITTEN_EARLY_MS: u64 = 60_000;

/// How often each emoji was counted in each room, as of F.
pub type RecoveredTotals = Vec<(Room, Emoji, u64)>;

/// What lies in the trending span as of F, from time 0 on.
pub type RecoveredTrending = Vec<Stay>;

/// What a run begins with.
pub struct Beginning {
    /// The only transactor that can commit.
    pub transactor: Box<dyn Transactor>,
    /// F.
    pub final_until_ms: u64,
    /// Every partition of the reactions, by number.
    pub partitions: Vec<PartitionProgress>,
    /// What was settled under other settings and may be read again.
    pub formers: Vec<Former>,
    /// The totals of every room as of F.
    pub totals: RecoveredTotals,
    /// What lies in the trending span as of F.
    pub trending: RecoveredTrending,
}

/// Fences older runs and reads where they got to.
pub fn recover(config: &Config, log: &dyn Log) -> Result<Beginning, DataflowError> {
    let topics = &config.topics;
    for topic in [
        topics.windows(),
        topics.trending(),
        topics.live(),
        topics.rejected(),
    ] {
        log.partitions(&topic).map_err(DataflowError::Start)?;
    }
    let transactor = fence(topics, log)?;
    let stored = stored(topics, log)?.unwrap_or_else(Progress::nothing);
    if let Some(settings) = &stored.settings
        && let Some(difference) = config.settings().difference(settings)
    {
        let topic = topics.progress();
        return Err(DataflowError::OtherSettings { topic, difference });
    }
    let final_until_ms = config.window.ceil(stored.final_until_ms);
    for known in &stored.partitions {
        tracing::debug!(
            partition = known.partition,
            resume_offset = known.resume_offset,
            read_offset = known.read_offset,
            "stored progress"
        );
    }
    Ok(Beginning {
        transactor,
        final_until_ms,
        trending: trending(config, log, stored.final_until_ms, final_until_ms)?,
        partitions: partitions(config, log, &stored)?,
        formers: stored.formers,
        totals: totals(&topics.totals(), log)?,
    })
}

/// Fences every older run: none can commit any more.
pub fn fence(topics: &Topics, log: &dyn Log) -> Result<Box<dyn Transactor>, DataflowError> {
    let id = format!("{}.dataflow", topics.prefix());
    log.transactor(&id, TRANSACTION_TIMEOUT)
        .map_err(DataflowError::Start)
}

/// The progress that was committed last; `None` if there is none. It may be moved until its writer is
/// fenced.
pub fn stored(topics: &Topics, log: &dyn Log) -> Result<Option<Progress>, DataflowError> {
    let topic = topics.progress();
    let mut newest = None;
    let mut keep = |record: Record<'_>| newest = Some(record.value.to_vec());
    read_to_end(log, &topic, &mut keep).map_err(DataflowError::Start)?;
    // An empty value is a deletion.
    let Some(value) = newest.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let unreadable = |detail: String| DataflowError::UnreadableProgress {
        topic: topic.clone(),
        detail,
    };
    let stored: Progress =
        serde_json::from_slice(&value).map_err(|error| unreadable(error.to_string()))?;
    match stored.format {
        FORMAT => Ok(Some(stored)),
        other => Err(unreadable(format!("format {other}"))),
    }
}

/// Where each partition resumes: where the stored progress says, a new one at its beginning.
fn partitions(
    config: &Config,
    log: &dyn Log,
    stored: &Progress,
) -> Result<Vec<PartitionProgress>, DataflowError> {
    let topic = config.topics.reactions();
    let (kept, misfits) = compare(&topic, log, stored).map_err(DataflowError::Start)?;
    if let Some(misfit) = misfits.into_iter().next() {
        return Err(DataflowError::Misfit { misfit });
    }
    let resume = |(partition, kept): (u32, Range<u64>)| {
        let known = stored.partitions.iter().find(|p| p.partition == partition);
        let mut progress = known.copied().unwrap_or(PartitionProgress {
            partition,
            resume_offset: kept.start,
            resume_watermark_ms: 0,
            read_offset: kept.start,
            last: None,
        });
        if let (None, Some(former)) = (&stored.settings, stored.formers.last()) {
            progress.resume_watermark_ms =
                PartitionClock::resumed(progress.resume_watermark_ms, former.lateness_ms)
                    .newest_ms()
                    .saturating_sub(config.lateness_ms);
        }
        progress
    };
    Ok((0..).zip(kept).map(resume).collect())
}

fn totals(topic: &str, log: &dyn Log) -> Result<RecoveredTotals, DataflowError> {
    // By name, as windows bring them: what is known first is numbered first.
    let mut rooms: BTreeMap<Room, TotalsRecord> = BTreeMap::new();
    let mut unreadable = 0_u64;
    let mut keep = |record: Record<'_>| match serde_json::from_slice::<TotalsRecord>(record.value) {
        Ok(totals) => {
            rooms.insert(totals.room.clone(), totals);
        }
        Err(_) => unreadable += 1,
    };
    read_to_end(log, topic, &mut keep).map_err(DataflowError::Start)?;
    if unreadable > 0 {
        tracing::warn!(topic, unreadable, "records that are no totals were skipped");
    }
    let counts = |totals: TotalsRecord| {
        let room = totals.room;
        let counts = totals.counts.into_iter();
        counts.map(move |count| (room.clone(), count.emoji, count.count))
    };
    Ok(rooms.into_values().flat_map(counts).collect())
}

/// What lies in the trending span as of F: the finals that the stored F has not seen leave.
///
/// The next run may begin at a greater F, or with another span. What should have left by then, and what
/// the topic shows of a room though no final backs it, leaves at its F: so the topic comes right there.
fn trending(
    config: &Config,
    log: &dyn Log,
    stored_until_ms: u64,
    final_until_ms: u64,
) -> Result<RecoveredTrending, DataflowError> {
    let (span, topics) = (config.span(), &config.topics);
    let since_ms = stored_until_ms.saturating_sub(span.span_ms + WRITTEN_EARLY_MS);
    let mut stays = Vec::new();
    let mut keep = |record: Record<'_>| {
        if let Ok(closed) = serde_json::from_slice::<WindowRecord>(record.value) {
            let leaves_ms = span.leaves_ms(closed.window.start);
            if leaves_ms >= stored_until_ms {
                stays.push(Stay {
                    room: closed.room,
                    from_ms: 0,
                    until_ms: leaves_ms.max(final_until_ms),
                    counts: closed.counts.iter().map(|t| (t.emoji, t.count)).collect(),
                });
            }
        }
    };
    read_since(log, &topics.windows(), since_ms, &mut keep).map_err(DataflowError::Start)?;
    let backed: HashSet<Room> = stays.iter().map(|stay| stay.room.clone()).collect();
    for shown in shown(&topics.trending(), log)? {
        if shown.span_ms != span.span_ms || !backed.contains(&shown.room) {
            stays.push(Stay {
                room: shown.room,
                from_ms: 0,
                until_ms: final_until_ms,
                counts: shown.top.iter().map(|c| (c.emoji, c.count)).collect(),
            });
        }
    }
    Ok(stays)
}

/// The rooms that the topic shows as trending.
fn shown(topic: &str, log: &dyn Log) -> Result<Vec<TrendingRecord>, DataflowError> {
    let mut rooms: BTreeMap<Room, TrendingRecord> = BTreeMap::new();
    let mut keep = |record: Record<'_>| {
        if let Ok(Trending::Room(record)) = serde_json::from_slice(record.value) {
            match record.top.is_empty() {
                true => rooms.remove(&record.room),
                false => rooms.insert(record.room.clone(), record),
            };
        }
    };
    read_to_end(log, topic, &mut keep).map_err(DataflowError::Start)?;
    Ok(rooms.into_values().collect())
}
