//! Where a run begins: fenced first, then read from the log.
//!
//! Invariant: progress is read only after every older run is fenced, so nobody can move it any more.

use std::{collections::HashMap, ops::Range, time::Duration};

use emostream_log::{Log, Record, Transactor, read_to_end};
use emostream_model::{Emoji, Room, Topics, TotalsRecord};

use crate::{
    Config, DataflowError,
    clock::PartitionClock,
    fit::compare,
    progress::{FORMAT, Former, PartitionProgress, Progress},
};

/// A transaction that takes longer is aborted by the log. Longer than a broker's short absence,
/// shorter than people's patience.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How often each emoji was counted in each room, as of F.
pub type RecoveredTotals = Vec<(Room, Emoji, u64)>;

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
}

/// Fences older runs and reads where they got to.
pub fn recover(config: &Config, log: &dyn Log) -> Result<Beginning, DataflowError> {
    let topics = &config.topics;
    for topic in [topics.windows(), topics.live(), topics.rejected()] {
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
    Ok(Beginning {
        transactor,
        final_until_ms: config.window.ceil(stored.final_until_ms),
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
    let mut rooms: HashMap<Room, TotalsRecord> = HashMap::new();
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
