//! Where a run begins: read from the log and compared, then fenced, then read and compared again.
//!
//! ```text
//!  newest finals ─▶ progress ─▶ offsets of the reactions ─▶ does it fit? ──no──▶ refused, nothing was touched
//!                                                             │ yes
//!                                                 fence ─▶ the same once more ─▶ totals, trending ─▶ begin
//! ```
//!
//! Reading the totals of many rooms takes seconds, in which the run commits its progress again and again
//! ([`crate::commit`]): a standby must not take it for dead.
//!
//! Invariants:
//! - A start that is refused fences no run: one with the wrong flags does not end the healthy one.
//! - What a run begins with was read after every older run was fenced, so no other run can change it.
//! - Finals are read before the progress that covers them, and offsets after it: a commit of the running
//!   dataflow in between makes nothing look as if it did not fit.

use std::{ops::Range, time::Duration};

use emostream_log::{Log, LogError, Record, Transactor, read_last};
use emostream_model::{Topics, WindowRecord};

use crate::{
    Config, DataflowError,
    clock::{MAX_AHEAD_MS, PartitionClock},
    fit::{compare, missing_finals},
    holds::moment,
    progress::{COMMIT_HEADER, CommitId, PartitionProgress, Progress},
    stored_progress, topic_settings,
};

/// Timeout of the request for the end offset of the progress topic.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How many of the last offsets of the progress topic are read for its newest record: it, and what its
/// transaction left.
const LAST_PROGRESS: u64 = 10;

/// How many of the last offsets of each partition of the windows may hold the newest final: more than a
/// transaction writes of one window after a later one.
const LAST_FINALS: u64 = 1000;

/// What a run has once every older run is fenced.
pub struct TakenOver {
    /// The only transactor that can commit.
    pub transactor: Box<dyn Transactor>,
    /// The offset of the progress that it goes on from, if there is any.
    pub offset: Option<u64>,
    /// The newest commit.
    pub newest: Option<CommitId>,
    /// The progress that it goes on from, with its own settings and every partition of the reactions.
    pub progress: Progress,
    /// F as it was stored: after a reset it may lie within one of this run's windows, and the progress's F is their
    /// next end.
    pub stored_until_ms: u64,
}

/// Checks that a run with this configuration can continue from the log. Returns the offset of the newest progress
/// record, or of an older one if another is written meanwhile. Fences no run.
pub fn check(config: &Config, log: &dyn Log) -> Result<Option<u64>, DataflowError> {
    let newest = newest_record(&config.topics, log).map_err(DataflowError::Start)?;
    require_topics(config, log)?;
    Found::read(config, log)?;
    Ok(newest.map(|newest| newest.offset))
}

fn require_topics(config: &Config, log: &dyn Log) -> Result<(), DataflowError> {
    let topics = &config.topics;
    log.partitions(&topics.live())
        .and_then(|_| require_result_topics(topics, log))
        .map_err(DataflowError::Start)?;
    topic_settings::require(config, log)
}

/// Checks that a run can begin, fences older runs, and reads where they got to.
///
/// Returns `None`, and fences no run, if the progress topic does not end at `silent_at` any more: the active run is
/// alive, or another standby has taken over first.
pub fn take_over(
    config: &Config,
    log: &dyn Log,
    silent_at: Option<u64>,
) -> Result<Option<TakenOver>, DataflowError> {
    let topics = &config.topics;
    require_topics(config, log)?;
    let before = Found::read(config, log)?;
    if let Some(end) = silent_at {
        let ends = log.end_offsets(&topics.progress(), 0, END_PATIENCE);
        if ends.map_err(DataflowError::Start)?.end != end {
            return Ok(None);
        }
    }
    let transactor = fence(topics, log, config.commit_timeout).map_err(DataflowError::Start)?;
    // One record is one moment: progress that is newer than the commit that is known could be written again.
    let newest = newest_record(topics, log).map_err(DataflowError::Start)?;
    // If no run has committed since the first check, its result is still valid.
    let unchanged = newest.as_ref().map(|newest| newest.progress(topics));
    let found = match unchanged.transpose()?.flatten() == before.stored {
        true => before.clone(),
        false => Found::read(config, log)?,
    };
    if found.stored != before.stored && found.is_reset() {
        let topic = topics.progress();
        return Err(DataflowError::ResetMeanwhile { topic });
    }
    let stored = found.stored.clone().unwrap_or_default();
    let final_until_ms = config.window.ceil(stored.final_until_ms);
    for known in &stored.partitions {
        tracing::debug!(
            partition = known.partition,
            resume_offset = known.resume_offset,
            read_offset = known.read_offset,
            "stored progress"
        );
    }
    Ok(Some(TakenOver {
        transactor,
        offset: newest.as_ref().map(|newest| newest.offset),
        newest: newest.and_then(|newest| newest.commit),
        stored_until_ms: stored.final_until_ms,
        progress: Progress {
            settings: Some(config.settings()),
            final_until_ms,
            partitions: found.partitions(config),
            newest_final_ms: stored.newest_final_ms.max(found.newest_final_ms),
            cluster_id: log.cluster_id(),
            run: Some(config.identity()),
            heartbeat_ms: Some(config.heartbeat.as_millis() as u64),
            formers: stored.formers,
            resets: stored.resets,
            unwritten: stored.unwritten,
        },
    }))
}

impl TakenOver {
    /// The progress as it is to be committed before anything is counted: with F as it was stored, so that a run that
    /// begins from this record restores the same as this one.
    pub fn unchanged(&self) -> Progress {
        Progress {
            final_until_ms: self.stored_until_ms,
            ..self.progress.clone()
        }
    }
}

/// [`LogError::UnknownTopic`] if a topic does not exist that transactions write to.
pub fn require_result_topics(topics: &Topics, log: &dyn Log) -> Result<(), LogError> {
    let written = [
        topics.windows(),
        topics.totals(),
        topics.trending(),
        topics.rejected(),
    ];
    written
        .iter()
        .try_for_each(|topic| log.partitions(topic).map(drop))
}

/// Refuses progress that was made under other settings.
pub fn require_settings(config: &Config, stored: &Progress) -> Result<(), DataflowError> {
    let stored = stored.settings.as_ref();
    let Some(difference) = stored.and_then(|it| config.settings().difference(it)) else {
        return Ok(());
    };
    let topic = config.topics.progress();
    Err(DataflowError::OtherSettings { topic, difference })
}

/// What the log says of where the dataflow stands, and that a run with some settings can go on from it.
#[derive(Clone)]
struct Found {
    newest_final_ms: u64,
    stored: Option<Progress>,
    /// What each partition of the reactions holds.
    kept: Vec<Range<u64>>,
}

impl Found {
    fn read(config: &Config, log: &dyn Log) -> Result<Found, DataflowError> {
        let topics = &config.topics;
        let newest_final_ms = newest_final_ms(topics, log)?;
        let stored = stored(topics, log)?;
        let known = stored.clone().unwrap_or_default();
        let (kept, misfits) =
            compare(&topics.reactions(), log, &known).map_err(DataflowError::Start)?;
        require_cluster(topics, log, &known)?;
        require_settings(config, &known)?;
        require_progress(topics, newest_final_ms, stored.as_ref())?;
        let now_ms = config.clock.unix_ms();
        let last_begins_ms = known.final_until_ms.saturating_sub(config.window.as_ms());
        if last_begins_ms > now_ms.saturating_add(MAX_AHEAD_MS) {
            return Err(DataflowError::FinalAhead {
                final_until: moment(known.final_until_ms),
                now: moment(now_ms),
            });
        }
        let missing = missing_finals(&topics.windows(), log, &known.unwritten);
        let missing = missing.map_err(DataflowError::Start)?;
        if let Some(misfit) = misfits.into_iter().next().or(missing) {
            return Err(DataflowError::Misfit { misfit });
        }
        Ok(Found {
            newest_final_ms,
            stored,
            kept,
        })
    }

    fn is_reset(&self) -> bool {
        self.stored.as_ref().is_some_and(|it| it.settings.is_none())
    }

    /// Where each partition resumes: where the stored progress says, a new one at its beginning.
    fn partitions(&self, config: &Config) -> Vec<PartitionProgress> {
        let stored = self.stored.clone().unwrap_or_default();
        let resume = |(partition, kept): (u32, &Range<u64>)| {
            let known = stored.partitions.iter().find(|p| p.partition == partition);
            let mut progress = known
                .copied()
                .unwrap_or_else(|| PartitionProgress::begin(partition, kept.start));
            if let (None, Some(former)) = (&stored.settings, stored.formers.last()) {
                progress.resume_watermark_ms =
                    PartitionClock::resumed(progress.resume_watermark_ms, former.lateness_ms)
                        .newest_ms()
                        .saturating_sub(config.lateness_ms);
            }
            progress
        };
        (0..).zip(&self.kept).map(resume).collect()
    }
}

/// Refuses progress of another Kafka cluster.
pub fn require_cluster(
    topics: &Topics,
    log: &dyn Log,
    stored: &Progress,
) -> Result<(), DataflowError> {
    match (stored.cluster_id.clone(), log.cluster_id()) {
        (Some(stored), Some(now)) if stored != now => {
            let topic = topics.progress();
            Err(DataflowError::OtherCluster { topic, stored, now })
        }
        _ => Ok(()),
    }
}

/// Refuses progress that does not know of the newest final: it was lost, or rolled back.
pub fn require_progress(
    topics: &Topics,
    newest_final_ms: u64,
    stored: Option<&Progress>,
) -> Result<(), DataflowError> {
    let known_ms = stored.map_or(0, |stored| {
        stored.newest_final_ms.max(stored.final_until_ms)
    });
    if newest_final_ms <= known_ms {
        return Ok(());
    }
    Err(DataflowError::FinalsBeyondProgress {
        windows: topics.windows(),
        progress: topics.progress(),
        newest: moment(newest_final_ms),
        known: match stored {
            Some(stored) => format!("ends at {}", moment(stored.final_until_ms)),
            None => "is empty".to_owned(),
        },
    })
}

/// The end of the newest window that has finals; 0 if there are none.
///
/// Finals of one partition lie in the order of their windows, but for those of one transaction: so its last
/// records are looked at.
pub fn newest_final_ms(topics: &Topics, log: &dyn Log) -> Result<u64, DataflowError> {
    let mut newest_ms = 0;
    let mut keep = |record: Record<'_>| {
        if let Ok(closed) = serde_json::from_slice::<WindowRecord>(record.value) {
            newest_ms = newest_ms.max(closed.window.end);
        }
    };
    read_last(log, &topics.windows(), LAST_FINALS, &mut keep).map_err(DataflowError::Start)?;
    Ok(newest_ms)
}

/// Kafka's transactional id for the results. All runs on the same topics share it, so that a new one fences the others.
pub fn transactional_id(topics: &Topics) -> String {
    format!("{}.dataflow", topics.prefix())
}

/// The consumer group whose offsets show how far a run has read the reactions.
pub fn consumer_group(topics: &Topics) -> String {
    format!("{}.dataflow", topics.prefix())
}

/// Fences every older run: none can commit any more. The log aborts a transaction that takes longer than `timeout`.
pub fn fence(
    topics: &Topics,
    log: &dyn Log,
    timeout: Duration,
) -> Result<Box<dyn Transactor>, LogError> {
    log.transactor(&transactional_id(topics), timeout)
}

/// The record of the progress that was committed last.
pub struct NewestRecord {
    /// Its offset.
    pub offset: u64,
    /// Which commit it is of; `None` if a former version wrote it.
    pub commit: Option<CommitId>,
    value: Vec<u8>,
}

impl NewestRecord {
    /// The progress in it; `None` if it deletes what was stored.
    pub fn progress(&self, topics: &Topics) -> Result<Option<Progress>, DataflowError> {
        decode(topics, &self.value)
    }
}

/// The newest record of the progress topic; `None` if there is none.
pub fn newest_record(topics: &Topics, log: &dyn Log) -> Result<Option<NewestRecord>, LogError> {
    let mut newest = None;
    let mut keep = |record: Record<'_>| {
        let headers = record.headers.read();
        let commit = headers.iter().find(|header| header.name == COMMIT_HEADER);
        newest = Some(NewestRecord {
            offset: record.offset,
            commit: commit.and_then(|commit| CommitId::parse(&commit.value)),
            value: record.value.to_vec(),
        });
    };
    read_last(log, &topics.progress(), LAST_PROGRESS, &mut keep)?;
    Ok(newest)
}

/// The newest commit; `None` if there is none, or a former version made it.
pub fn newest_commit(topics: &Topics, log: &dyn Log) -> Result<Option<CommitId>, LogError> {
    Ok(newest_record(topics, log)?.and_then(|newest| newest.commit))
}

/// The progress that was committed last; `None` if there is none. It may be moved until its writer is
/// fenced.
pub fn stored(topics: &Topics, log: &dyn Log) -> Result<Option<Progress>, DataflowError> {
    let newest = newest_record(topics, log).map_err(DataflowError::Start)?;
    newest.map_or(Ok(None), |newest| newest.progress(topics))
}

/// The progress in a record's value; `None` if the record deletes it.
pub fn decode(topics: &Topics, value: &[u8]) -> Result<Option<Progress>, DataflowError> {
    if value.is_empty() {
        return Ok(None);
    }
    let unreadable = |detail| DataflowError::UnreadableProgress {
        topic: topics.progress(),
        detail,
    };
    stored_progress::decode(value).map(Some).map_err(unreadable)
}
