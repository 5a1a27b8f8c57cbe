//! Where a run begins: fenced first, then read from the log.
//!
//! Invariant: progress is read only after every older run is fenced, so nobody can move it any more.

use std::{collections::HashMap, time::Duration};

use emostream_log::{Log, LogError, Record, Transactor, read_to_end};
use emostream_model::{Emoji, Room, TotalsRecord};

use crate::{
    Config, DataflowError,
    progress::{FORMAT, PartitionProgress, Progress},
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
    /// The totals of every room as of F.
    pub totals: RecoveredTotals,
}

/// Fences older runs and reads where they got to.
pub fn recover(config: &Config, log: &dyn Log) -> Result<Beginning, DataflowError> {
    let topics = &config.topics;
    for topic in [topics.windows(), topics.live(), topics.rejected()] {
        log.partitions(&topic).map_err(DataflowError::Start)?;
    }
    let id = format!("{}.dataflow", topics.prefix());
    let transactor = log
        .transactor(&id, TRANSACTION_TIMEOUT)
        .map_err(DataflowError::Start)?;
    let stored = stored_progress(config, log)?;
    Ok(Beginning {
        transactor,
        final_until_ms: stored.as_ref().map_or(0, |stored| stored.final_until_ms),
        partitions: partitions(config, log, stored.as_ref())?,
        totals: totals(&topics.totals(), log)?,
    })
}

fn stored_progress(config: &Config, log: &dyn Log) -> Result<Option<Progress>, DataflowError> {
    let topic = config.topics.progress();
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
    if stored.format != FORMAT {
        return Err(unreadable(format!("format {}", stored.format)));
    }
    match config.settings().difference(&stored.settings) {
        Some(difference) => Err(DataflowError::OtherSettings { topic, difference }),
        None => Ok(Some(stored)),
    }
}

/// Where each partition resumes: where the stored progress says, a new one at its beginning.
fn partitions(
    config: &Config,
    log: &dyn Log,
    stored: Option<&Progress>,
) -> Result<Vec<PartitionProgress>, DataflowError> {
    let topic = config.topics.reactions();
    let known: HashMap<u32, PartitionProgress> = stored
        .into_iter()
        .flat_map(|stored| stored.partitions.iter().map(|p| (p.partition, *p)))
        .collect();
    let count = log.partitions(&topic).map_err(DataflowError::Start)?;
    let resume = |partition| {
        let kept = log.offsets(&topic, partition)?;
        Ok((partition, kept))
    };
    let kept: Result<Vec<_>, LogError> = (0..count).map(resume).collect();
    let resumed = kept.map_err(DataflowError::Start)?.into_iter();
    resumed
        .map(|(partition, kept)| {
            let fresh = PartitionProgress {
                partition,
                resume_offset: kept.start,
                resume_watermark_ms: 0,
                read_offset: kept.start,
            };
            let progress = known.get(&partition).copied().unwrap_or(fresh);
            let resume = progress.resume_offset;
            if (kept.start..=kept.end).contains(&resume) {
                return Ok(progress);
            }
            Err(DataflowError::Gone {
                topic: topic.clone(),
                partition,
                resume,
                start: kept.start,
                end: kept.end,
            })
        })
        .collect()
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
