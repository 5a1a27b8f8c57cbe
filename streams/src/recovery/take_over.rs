//! The start of a run. The run reads and validates the progress, fences older runs, and then reads and validates the
//! progress again.
//!
//! ```text
//!  newest finals ─▶ progress ─▶ offsets of the source ─▶ valid? ──no──▶ error, nothing was changed
//!                                                             │ yes
//!                                                 fence ─▶ the same once more ─▶ tables ─▶ begin
//! ```
//!
//! Restoring the tables of many keys takes seconds. During this time the run commits its progress at each heartbeat
//! ([`crate::sink::commit`]), so that no standby takes over.
//!
//! Invariants:
//! - A start that fails a check fences no run, so a start with wrong flags does not end the active run.
//! - The progress with which a run begins was read after every older run was fenced, so no other run can change it.
//! - Final results are read before the progress that covers them, and offsets after it, so that a commit of the active
//!   run in between does not cause a mismatch.

use std::{ops::Range, time::Duration};

use emostream_log::{Log, Record, Transactor, read_last};

use super::topic_settings;
use crate::{
    StreamsError,
    config::Config,
    progress::{
        newest::{fence, newest_record, require_result_topics, stored},
        record::{CommitId, PartitionProgress, Progress},
        validate::{compare, missing_finals},
    },
    time::{clock::PartitionClock, format_time},
    topics::{MAX_AHEAD_MS, Topics},
};

/// Timeout of the request for the end offset of the progress topic.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Number of offsets at the end of each partition of the final results that are read to find the newest final result.
/// The last final result of a partition may not be the newest, since a transaction may write final results of one
/// window after final results of a later window, but it writes fewer than this number.
const LAST_FINALS: u64 = 1000;

/// The start of a run, after every older run was fenced.
pub struct TakenOver {
    /// The only transactor that can commit.
    pub transactor: Box<dyn Transactor>,
    /// The offset of the progress record from which the run continues, if there is one.
    pub offset: Option<u64>,
    /// The id of the newest commit.
    pub newest: Option<CommitId>,
    /// The progress from which the run continues, with its own settings and every partition of the source.
    pub progress: Progress,
    /// The stored final-until time. After a reset it may lie within a window of this run; the final-until time of
    /// `progress` is the end of that window.
    pub stored_until_ms: u64,
}

/// Checks that a run with this configuration can continue from the log. Returns the offset of the newest progress
/// record, or of an older one if a newer record is written during the check. Fences no run.
pub fn check(config: &Config, log: &dyn Log) -> Result<Option<u64>, StreamsError> {
    let newest = newest_record(&config.topics, log).map_err(StreamsError::Start)?;
    require_topics(config, log)?;
    Found::read(config, log)?;
    Ok(newest.map(|newest| newest.offset))
}

fn require_topics(config: &Config, log: &dyn Log) -> Result<(), StreamsError> {
    let topics = &config.topics;
    let updates = topics.updates.iter();
    updates
        .map(|topic| log.partitions(topic).map(drop))
        .chain([require_result_topics(topics, log)])
        .collect::<Result<(), _>>()
        .map_err(StreamsError::Start)?;
    topic_settings::require(config, log)
}

/// Checks that a run can begin, fences older runs, and reads their progress.
///
/// Returns `None`, and fences no run, if the progress topic does not end at `silent_at` any more: the active run is
/// alive, or another standby has taken over first.
pub fn take_over(
    config: &Config,
    log: &dyn Log,
    silent_at: Option<u64>,
) -> Result<Option<TakenOver>, StreamsError> {
    let topics = &config.topics;
    require_topics(config, log)?;
    let before = Found::read(config, log)?;
    if let Some(end) = silent_at {
        let ends = log.end_offsets(&topics.progress, 0, END_TIMEOUT);
        if ends.map_err(StreamsError::Start)?.end != end {
            return Ok(None);
        }
    }
    let transactor = fence(topics, log, config.run.commit_timeout).map_err(StreamsError::Start)?;
    // The progress and the commit id must be those of one record. Otherwise the run could overwrite progress that it
    // has not read.
    let newest = newest_record(topics, log).map_err(StreamsError::Start)?;
    // If no run has committed since the first check, the result of that check is still valid.
    let unchanged = newest.as_ref().map(|newest| newest.progress(topics));
    let found = match unchanged.transpose()?.flatten() == before.stored {
        true => before.clone(),
        false => Found::read(config, log)?,
    };
    if found.stored != before.stored && found.is_reset() {
        let topic = topics.progress.clone();
        return Err(StreamsError::ResetMeanwhile { topic });
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
            settings: Some(config.settings.clone()),
            final_until_ms,
            partitions: found.partitions(config),
            newest_final_ms: stored.newest_final_ms.max(found.newest_final_ms),
            cluster_id: log.cluster_id(),
            run: Some(config.identity()),
            heartbeat_ms: Some(config.run.heartbeat.as_millis() as u64),
            prior_epochs: stored.prior_epochs,
            resets: stored.resets,
            unwritten: stored.unwritten,
        },
    }))
}

impl TakenOver {
    /// Returns the progress that is committed before any event is counted: with the stored final-until time, so that a
    /// run that begins from this record restores the same state as this one.
    pub fn unchanged(&self) -> Progress {
        Progress {
            final_until_ms: self.stored_until_ms,
            ..self.progress.clone()
        }
    }
}

/// Checks that progress was written with the settings of this run, or has no settings.
pub fn require_settings(config: &Config, stored: &Progress) -> Result<(), StreamsError> {
    let stored = stored.settings.as_ref();
    let Some(difference) = stored.and_then(|it| config.settings.difference(it)) else {
        return Ok(());
    };
    let topic = config.topics.progress.clone();
    Err(StreamsError::OtherSettings { topic, difference })
}

/// The state of the application as read from the log and validated: a run with the given settings can continue from it.
#[derive(Clone)]
struct Found {
    newest_final_ms: u64,
    stored: Option<Progress>,
    /// The offsets that each partition of the source holds.
    kept: Vec<Range<u64>>,
}

impl Found {
    fn read(config: &Config, log: &dyn Log) -> Result<Found, StreamsError> {
        let topics = &config.topics;
        let newest_final_ms = newest_final_ms(topics, log)?;
        let stored = stored(topics, log)?;
        let known = stored.clone().unwrap_or_default();
        let (kept, mismatches) =
            compare(&topics.source, log, &known).map_err(StreamsError::Start)?;
        require_cluster(topics, log, &known)?;
        require_settings(config, &known)?;
        require_progress(topics, newest_final_ms, stored.as_ref())?;
        let now_ms = config.run.clock.unix_ms();
        let last_begins_ms = known.final_until_ms.saturating_sub(config.window.as_ms());
        if last_begins_ms > now_ms.saturating_add(MAX_AHEAD_MS) {
            return Err(StreamsError::FinalAhead {
                final_until: format_time(known.final_until_ms),
                now: format_time(now_ms),
            });
        }
        let missing = missing_finals(&topics.finals, log, &known.unwritten);
        let missing = missing.map_err(StreamsError::Start)?;
        if let Some(mismatch) = mismatches.into_iter().next().or(missing) {
            return Err(StreamsError::ProgressMismatch { mismatch });
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

    /// Returns the progress with which each partition resumes: the stored one, or the start of a new partition.
    fn partitions(&self, config: &Config) -> Vec<PartitionProgress> {
        let stored = self.stored.clone().unwrap_or_default();
        let resume = |(partition, kept): (u32, &Range<u64>)| {
            let known = stored.partitions.iter().find(|p| p.partition == partition);
            let mut progress = known
                .copied()
                .unwrap_or_else(|| PartitionProgress::begin(partition, kept.start));
            if let (None, Some(epoch)) = (&stored.settings, stored.prior_epochs.last()) {
                progress.resume_watermark_ms =
                    PartitionClock::resumed(progress.resume_watermark_ms, epoch.lateness_ms)
                        .newest_ms()
                        .saturating_sub(config.run.lateness_ms);
            }
            progress
        };
        (0..).zip(&self.kept).map(resume).collect()
    }
}

/// Checks that progress was written on this Kafka cluster.
pub fn require_cluster(
    topics: &Topics,
    log: &dyn Log,
    stored: &Progress,
) -> Result<(), StreamsError> {
    match (stored.cluster_id.clone(), log.cluster_id()) {
        (Some(stored), Some(now)) if stored != now => {
            let topic = topics.progress.clone();
            Err(StreamsError::OtherCluster { topic, stored, now })
        }
        _ => Ok(()),
    }
}

/// Checks that progress covers the newest final result. If it does not, it was lost or rolled back.
pub fn require_progress(
    topics: &Topics,
    newest_final_ms: u64,
    stored: Option<&Progress>,
) -> Result<(), StreamsError> {
    let known_ms = stored.map_or(0, |stored| {
        stored.newest_final_ms.max(stored.final_until_ms)
    });
    if newest_final_ms <= known_ms {
        return Ok(());
    }
    Err(StreamsError::FinalsBeyondProgress {
        windows: topics.finals.clone(),
        progress: topics.progress.clone(),
        newest: format_time(newest_final_ms),
        known: match stored {
            Some(stored) => format!("ends at {}", format_time(stored.final_until_ms)),
            None => "is empty".to_owned(),
        },
    })
}

/// Returns the end of the newest window that has final results; 0 if there are none.
///
/// The final results of a partition are in the order of their windows, except for those of one transaction. So the last
/// records of each partition are read, not only the last one.
pub fn newest_final_ms(topics: &Topics, log: &dyn Log) -> Result<u64, StreamsError> {
    let mut newest_ms = 0;
    let mut keep = |record: Record<'_>| {
        if let Some(closed) = (topics.read_final)(record.value) {
            newest_ms = newest_ms.max(closed.end_ms);
        }
    };
    read_last(log, &topics.finals, LAST_FINALS, &mut keep).map_err(StreamsError::Start)?;
    Ok(newest_ms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use emostream_log::testing::FaultyLog;

    use super::*;
    use crate::testing::{commit, config, log};

    /// While partitions are idle, windows close although no record is read, so the final-until time advances without
    /// new records. A run that continued from an earlier final-until time would write the final results of these
    /// windows again.
    #[test]
    fn a_final_time_that_was_committed_just_before_the_fence_is_not_set_back() {
        let progress = |final_until_ms| Progress {
            settings: Some(config().settings),
            final_until_ms,
            partitions: vec![PartitionProgress::begin(0, 0)],
            ..Progress::default()
        };
        let log = log();
        commit(&*log, &progress(2000));
        let older = log.clone();
        let hook = move |_: &str| commit(&*older, &progress(4000));
        let log = FaultyLog::new(log).before_transactor(hook);
        let taken = take_over(&config(), &log, None).unwrap().unwrap();
        assert_eq!(
            (taken.stored_until_ms, taken.progress.final_until_ms),
            (4000, 4000)
        );
    }
}
