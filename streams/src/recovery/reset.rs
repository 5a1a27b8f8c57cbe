//! Resets progress: discards its settings, and the offsets that the log no longer contains. If a clock was wrong, a
//! reset can also set another final-until time.
//!
//! ```text
//!  read ─▶ plan ─▶ confirmed? ─▶ fence ─▶ read, plan again: the same? ─▶ write progress without settings
//! ```
//!
//! Invariants:
//! - A final stays final, and its events are never counted again. The exceptions are windows after a final-until time
//!   that was set back: they may get a second final, of other events. If it is set forward, events of windows in
//!   between become late: they are rejected, not lost.
//! - An event that was counted or rejected with the previous settings is neither counted nor rejected again. The
//!   progress keeps these settings as a [`PriorEpoch`] until no run reads below the committed offset of that epoch
//!   again and the final-until time has reached that of the epoch.
//! - After the final-until time was set back, records that are in the log already, and whose times are later than it by
//!   more than [`MAX_AHEAD_MS`], do not advance the watermark: see [`AheadLimit`]. Which records these are depends on
//!   the log and the progress alone.

use std::{ops::Range, time::Duration};

use emostream_log::{Log, LogError, Record, read_since};
use emostream_protocol::{ResultOrder, Unwritten, WindowSize};

use super::take_over::{newest_final_ms, require_cluster, require_progress};
use crate::{
    StreamsError,
    config::HEARTBEAT,
    mismatch::ProgressMismatch,
    progress::{
        newest::{fence, stored as stored_progress},
        record::{AheadLimit, CommitId, PartitionProgress, PriorEpoch, Progress, Resets},
        settings::LATENESS_MS,
        stored::progress_record,
        validate::{compare, missing_finals},
    },
    time::format_time,
    topics::{MAX_AHEAD_MS, Topics},
};

/// Timeout of requests for end offsets.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// Maximum difference between the clocks of two hosts, milliseconds. The record of a final is written after the end of
/// its window, but the time of the record may be earlier than that end by this difference.
const MAX_CLOCK_SKEW_MS: u64 = 60_000;

/// Maximum number of finals that a plan lists.
const MAX_LISTED_FINALS: usize = 20;

/// The timeout of the transaction that writes the progress.
const RESET_TIMEOUT: Duration = Duration::from_secs(10);

/// The offsets from which the next run reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFrom {
    /// The stored offset of each partition, or the first offset that the log still contains if that offset is greater.
    Kept,
    /// The end offsets.
    Latest,
}

/// The options of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetRequest {
    /// The offsets from which the next run reads.
    pub from: ResetFrom,
    /// The new final-until time, Unix milliseconds; `None` if it stays as it is.
    pub final_until_ms: Option<u64>,
    /// Whether records that are ahead of this host's clock are rejected. If no other option is set, the reset changes
    /// nothing else.
    pub reject_ahead: bool,
    /// The time of this host's clock, Unix milliseconds.
    pub now_ms: u64,
}

/// The direction in which a reset changes the final-until time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalTime {
    /// The final-until time stays as it is.
    Kept,
    /// The final-until time is set back.
    Backward,
    /// The final-until time is set forward.
    Forward,
    /// The final-until time is set for the first time, since no progress is stored.
    Begun,
}

/// The finals of windows that end after the new final-until time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinalsAfter {
    /// The number of finals.
    pub finals: u64,
    /// The number of events in these finals.
    pub events: u64,
    /// The earliest of these finals: the end of the window, the key, and the number of events.
    pub first: Vec<(u64, String, u64)>,
}

/// The facts on which a plan is based. If they have changed when the plan is executed, the reset fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// The direction in which the final-until time changes.
    final_time: FinalTime,
    /// The number of backward resets before this reset.
    resets: u64,
    /// Whether a run wrote the stored progress, not a reset.
    of_a_run: bool,
}

/// The plan of a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The facts on which the plan is based.
    pub basis: Basis,
    /// The final-until time before the reset, Unix milliseconds; 0 if no progress is stored.
    pub stored_until_ms: u64,
    /// The final-until time after the reset, Unix milliseconds.
    pub final_until_ms: u64,
    /// The direction in which the final-until time changes.
    pub final_time: FinalTime,
    /// The finals of windows that end after the new final-until time.
    pub finals_after: FinalsAfter,
}

/// The effects of a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The number of partitions of the source.
    pub partitions: u32,
    /// The new final-until time: finals up to this time stay. Unix milliseconds.
    pub final_until_ms: u64,
    /// The number of records from the restart offsets to the end offsets, which the next run reads or skips.
    pub records: u64,
    /// The number of records that were deleted before they were counted.
    pub lost: u64,
    /// The number of partitions that were recreated or truncated, so that they contain other records than were read, or
    /// fewer. They are read from their beginning.
    pub replaced: u32,
    /// If no progress was stored: the number of records before the final-until time, which count as committed already.
    pub settled: u64,
}

/// Returns the plan of `request`; `None` if there is nothing to reset. Changes nothing.
pub fn plan(
    topics: &Topics,
    log: &dyn Log,
    request: &ResetRequest,
) -> Result<Option<Plan>, StreamsError> {
    let stored = stored_progress(topics, log)?;
    if stored.is_none() && request.final_until_ms.is_none() {
        // If there are finals but no progress, the progress was lost, and the reset must set a final-until time.
        require_progress(topics, newest_final_ms(topics, log)?, None)?;
    }
    let Some((final_until_ms, final_time)) = final_time(stored.as_ref(), request)? else {
        return Ok(None);
    };
    let finals_after = match request.final_until_ms {
        Some(_) => finals_after(topics, log, final_until_ms)?,
        None => FinalsAfter::default(),
    };
    Ok(Some(Plan {
        basis: Basis::of(stored.as_ref(), final_time),
        stored_until_ms: stored.map_or(0, |stored| stored.final_until_ms),
        final_until_ms,
        final_time,
        finals_after,
    }))
}

/// Fences the active run, and executes the plan.
///
/// # Errors
///
/// [`StreamsError::ProgressMoved`] if the progress has changed since the plan was made, so that the same request would
/// lead to another plan.
pub fn reset(
    topics: &Topics,
    log: &dyn Log,
    request: &ResetRequest,
    plan: &Plan,
) -> Result<Reset, StreamsError> {
    let mut transactor = fence(topics, log, RESET_TIMEOUT).map_err(StreamsError::Start)?;
    let stored = stored_progress(topics, log)?;
    let moved = || StreamsError::ProgressMoved {
        topic: topics.progress.clone(),
    };
    let (final_until_ms, final_time) = final_time(stored.as_ref(), request)?.ok_or_else(moved)?;
    if Basis::of(stored.as_ref(), final_time) != plan.basis {
        return Err(moved());
    }
    let newest_final_ms = newest_final_ms(topics, log)?;
    let stored_newest_ms = stored.as_ref().map_or(0, |stored| stored.newest_final_ms);
    let topic = topics.source.clone();
    let (progress, done) = match stored {
        None => begin(topics, log, request.final_until_ms, newest_final_ms)?,
        Some(stored) => {
            let only_rejects = request.reject_ahead
                && request.final_until_ms.is_none()
                && request.from == ResetFrom::Kept;
            if only_rejects {
                require_cluster(topics, log, &stored)?;
            }
            let (kept, mismatches) = compare(&topic, log, &stored).map_err(StreamsError::Start)?;
            let lost = lost_commits(log, &topic, &stored, newest_final_ms)?;
            let elsewhere = stored.cluster_id.is_some() && stored.cluster_id != log.cluster_id();
            let stored = if elsewhere {
                without_offsets(stored)
            } else {
                stored
            };
            let (mut progress, done) = match (only_rejects, mismatches.first()) {
                (true, Some(mismatch)) => {
                    let mismatch = mismatch.clone();
                    return Err(StreamsError::ProgressMismatch { mismatch });
                }
                (true, None) => reject_more(stored, &kept),
                (false, _) => forget(stored, &kept, &mismatches, request.from),
            };
            if elsewhere || lost.is_some() {
                progress.unwritten = unknown_tables();
            }
            progress.prior_epochs.extend(lost);
            (progress, done)
        }
    };
    let mut progress = Progress {
        cluster_id: log.cluster_id(),
        newest_final_ms: progress
            .newest_final_ms
            .max(newest_final_ms)
            .max(progress.final_until_ms),
        // A record with a heartbeat and without a run is recognised as the record of a reset; see
        // `Progress::is_of_a_reset`.
        run: None,
        heartbeat_ms: Some(HEARTBEAT.as_millis() as u64),
        ..progress
    };
    let missing = missing_finals(&topics.finals, log, &progress.unwritten);
    if missing.map_err(StreamsError::Start)?.is_some() {
        progress.unwritten = unknown_tables();
    }
    let set_back = final_until_ms < progress.newest_final_ms && request.final_until_ms.is_some();
    // If a reset sets the final-until time forward again, but not past all finals, the number of backward resets stays
    // the same.
    if set_back && (final_time != FinalTime::Forward || newest_final_ms > stored_newest_ms) {
        progress.resets = Resets {
            number: progress.resets.number + 1,
            until_ms: final_until_ms,
        };
    }
    progress.final_until_ms = final_until_ms;
    let limit_ms = match (set_back, request.reject_ahead) {
        (true, _) => Some(final_until_ms.saturating_add(MAX_AHEAD_MS)),
        (false, true) => Some(request.now_ms.saturating_add(MAX_AHEAD_MS)),
        (false, false) => None,
    };
    let ends = match limit_ms {
        Some(_) => ends(log, &topic)?,
        None => Vec::new(),
    };
    for partition in &mut progress.partitions {
        if set_back {
            let watermark_ms = partition.resume_watermark_ms;
            partition.resume_watermark_ms = watermark_ms.min(final_until_ms);
        }
        let end = ends.get(partition.partition as usize).copied();
        if let (Some(limit_ms), Some(below_offset)) = (limit_ms, end) {
            partition.ahead = Some(AheadLimit {
                below_offset,
                limit_ms,
            });
        }
    }
    let mut record = progress_record(topics, &progress);
    // The record has an id of its own, so that a run whose commit fails does not mistake this record for that commit.
    record.headers.push(CommitId::first().header());
    let records = vec![record];
    transactor.commit(records).map_err(StreamsError::Start)?;
    Ok(Reset {
        final_until_ms,
        ..done
    })
}

/// Returns the final-until time after the reset, and how it changes; `None` if there is nothing to reset.
fn final_time(
    stored: Option<&Progress>,
    request: &ResetRequest,
) -> Result<Option<(u64, FinalTime)>, StreamsError> {
    let Some(wanted_ms) = request.final_until_ms else {
        let final_until_ms = stored.map(|stored| stored.final_until_ms);
        let to_reject = request.reject_ahead.then_some(0);
        return Ok(final_until_ms
            .or(to_reject)
            .map(|until_ms| (until_ms, FinalTime::Kept)));
    };
    if wanted_ms > request.now_ms.saturating_add(MAX_AHEAD_MS) {
        return Err(StreamsError::FinalUntil(format!(
            "{} is ahead of this host's clock ({}); no event would be counted until then",
            format_time(wanted_ms),
            format_time(request.now_ms)
        )));
    }
    let Some(stored) = stored else {
        return Ok(Some((wanted_ms, FinalTime::Begun)));
    };
    let window = stored.window_ms().and_then(WindowSize::from_ms);
    let final_until_ms = window.map_or(wanted_ms, |window| window.ceil(wanted_ms));
    let final_time = match final_until_ms.cmp(&stored.final_until_ms) {
        std::cmp::Ordering::Less => FinalTime::Backward,
        std::cmp::Ordering::Equal => FinalTime::Kept,
        std::cmp::Ordering::Greater => FinalTime::Forward,
    };
    Ok(Some((final_until_ms, final_time)))
}

/// Reads the finals of windows that end after `until_ms`.
fn finals_after(
    topics: &Topics,
    log: &dyn Log,
    until_ms: u64,
) -> Result<FinalsAfter, StreamsError> {
    let mut after = FinalsAfter::default();
    let mut keep = |record: Record<'_>| {
        if let Some(closed) = (topics.read_final)(record.value)
            && closed.end_ms > until_ms
        {
            after.finals += 1;
            after.events += closed.events;
            let listed = (closed.end_ms, closed.key, closed.events);
            let at = after.first.partition_point(|known| *known < listed);
            after.first.insert(at, listed);
            after.first.truncate(MAX_LISTED_FINALS);
        }
    };
    let since_ms = until_ms.saturating_sub(MAX_CLOCK_SKEW_MS);
    match read_since(log, &topics.finals, since_ms, &mut keep) {
        Ok(()) | Err(LogError::UnknownTopic { .. }) => Ok(after),
        Err(error) => Err(StreamsError::Start(error)),
    }
}

/// Returns the high watermark of each partition, which is after the records of open transactions.
fn ends(log: &dyn Log, topic: &str) -> Result<Vec<u64>, StreamsError> {
    let ends = log.high_watermarks(topic, REQUEST_TIMEOUT);
    let ends = ends.and_then(|ends| ends.into_iter().collect());
    ends.map_err(StreamsError::Start)
}

/// Returns the first progress of an application that has none. Records in the log with times up to `final_until_ms`
/// count as committed already; without `final_until_ms`, no record does.
fn begin(
    topics: &Topics,
    log: &dyn Log,
    final_until_ms: Option<u64>,
    newest_final_ms: u64,
) -> Result<(Progress, Reset), StreamsError> {
    let final_until_ms = final_until_ms.unwrap_or(0);
    let settled_ms = final_until_ms.max(newest_final_ms);
    let topic = topics.source.clone();
    let mut done = Reset::of(final_until_ms);
    let at = |time_ms| log.offsets_at(&topic, time_ms).map_err(StreamsError::Start);
    let kept = log.offsets(&topic).map_err(StreamsError::Start)?;
    // An event is later than its record by at most `MAX_AHEAD_MS`, so reading begins earlier by this time.
    let resume_offsets = at(final_until_ms.saturating_sub(MAX_AHEAD_MS))?;
    let ends = ends(log, &topic)?;
    let mut partitions = Vec::new();
    let offsets = kept.iter().zip(resume_offsets).zip(&ends);
    for (((kept, resume_offset), end), settled) in offsets.zip(at(final_until_ms)?) {
        let resume_offset = resume_offset.max(kept.start);
        done.settled += settled.saturating_sub(kept.start);
        done.records += end.saturating_sub(resume_offset);
        partitions.push(PartitionProgress::begin(done.partitions, resume_offset));
        done.partitions += 1;
    }
    let settled = (settled_ms > 0).then(|| PriorEpoch {
        // The size of the windows is not known. With windows of 1 ms, every event before `final_until_ms` counts as
        // committed already.
        window_ms: 1,
        lateness_ms: 0,
        final_until_ms: settled_ms,
        read_offsets: (0..).zip(ends).collect(),
        ahead: Vec::new(),
    });
    let progress = Progress {
        unwritten: match newest_final_ms {
            0 => Unwritten::default(),
            _ => unknown_tables(),
        },
        final_until_ms,
        partitions,
        prior_epochs: settled.into_iter().collect(),
        ..Progress::default()
    };
    Ok((progress, done))
}

/// Returns the value that is stored if it is not known which records of the tables are complete. With this value, the
/// next run adds all finals in the log that are later than the record of their key.
fn unknown_tables() -> Unwritten {
    Unwritten {
        since: Some(ResultOrder::default()),
        finals: None,
    }
}

/// Returns the epoch of the commits that were lost because the progress was rolled back; `None` if no commits were
/// lost. With this epoch, all events of windows up to the newest final count as committed already.
fn lost_commits(
    log: &dyn Log,
    topic: &str,
    stored: &Progress,
    newest_final_ms: u64,
) -> Result<Option<PriorEpoch>, StreamsError> {
    if newest_final_ms <= stored.newest_final_ms.max(stored.final_until_ms) {
        return Ok(None);
    }
    let window_ms = stored.window_ms();
    Ok(Some(PriorEpoch {
        // If the size of the windows is not known, windows of 1 ms are assumed: all events before the end of the newest
        // final count as committed already.
        window_ms: window_ms.unwrap_or(1),
        lateness_ms: stored
            .settings
            .as_ref()
            .and_then(|settings| settings.number(LATENESS_MS))
            .unwrap_or(0),
        final_until_ms: newest_final_ms,
        read_offsets: (0..).zip(ends(log, topic)?).collect(),
        ahead: Vec::new(),
    }))
}

/// Returns progress without its offsets, which belong to another Kafka cluster.
fn without_offsets(stored: Progress) -> Progress {
    Progress {
        settings: None,
        partitions: Vec::new(),
        prior_epochs: Vec::new(),
        ..stored
    }
}

/// Returns progress with the same settings and offsets, so that only the limits for `ahead` records change.
fn reject_more(mut stored: Progress, kept: &[Range<u64>]) -> (Progress, Reset) {
    let unread = |p: &PartitionProgress| {
        let held = kept.get(p.partition as usize);
        held.map_or(0, |held| held.end.saturating_sub(p.resume_offset))
    };
    let done = Reset {
        partitions: kept.len() as u32,
        records: stored.partitions.iter().map(unread).sum(),
        ..Reset::of(stored.final_until_ms)
    };
    // Events that were counted or rejected until now stay counted or rejected. Other events that were read are
    // classified by the new limits. The rule for the limits treats all events below the committed offset as rejected
    // already, so the committed offset is set back to the restart offset.
    if let Some(settings) = stored.settings.clone() {
        let epoch = PriorEpoch::of(&stored, &settings);
        stored.prior_epochs.push(epoch);
    }
    for partition in &mut stored.partitions {
        partition.read_offset = partition.resume_offset;
    }
    for (number, held) in (0..).zip(kept) {
        if stored.partitions.iter().all(|p| p.partition != number) {
            stored
                .partitions
                .push(PartitionProgress::begin(number, held.start));
        }
    }
    (stored, done)
}

impl Basis {
    fn of(stored: Option<&Progress>, final_time: FinalTime) -> Basis {
        Basis {
            final_time,
            resets: stored.map_or(0, |stored| stored.resets.number),
            of_a_run: stored.is_some_and(|stored| stored.settings.is_some()),
        }
    }
}

impl Reset {
    fn of(final_until_ms: u64) -> Reset {
        Reset {
            partitions: 0,
            final_until_ms,
            records: 0,
            lost: 0,
            replaced: 0,
            settled: 0,
        }
    }
}

/// Returns progress without settings that continues from `stored`. `kept` are the offsets that each partition contains.
fn forget(
    stored: Progress,
    kept: &[Range<u64>],
    mismatches: &[ProgressMismatch],
    from: ResetFrom,
) -> (Progress, Reset) {
    let other = |partition: u32| {
        let replaced = |m: &&ProgressMismatch| !matches!(m, ProgressMismatch::Expired { .. });
        let of = mismatches
            .iter()
            .filter(replaced)
            .map(ProgressMismatch::partition);
        of.into_iter().any(|p| p == partition)
    };
    let mut done = Reset {
        partitions: kept.len() as u32,
        ..Reset::of(stored.final_until_ms)
    };
    let resume = |(partition, kept): (u32, &Range<u64>)| {
        let known = stored.partitions.iter().find(|p| p.partition == partition);
        done.replaced += u32::from(other(partition));
        let known = known.filter(|_| !other(partition));
        let resume = known.map_or(kept.start, |p| p.resume_offset);
        done.lost += kept.start.saturating_sub(resume);
        let resume = resume.max(kept.start);
        done.records += kept.end - resume;
        let resume_offset = match from {
            ResetFrom::Kept => resume,
            ResetFrom::Latest => kept.end,
        };
        PartitionProgress {
            // The watermark at a later offset may be greater but never less, so the stored watermark is valid there,
            // too.
            resume_watermark_ms: known.map_or(0, |p| p.resume_watermark_ms),
            last: known.and_then(|p| p.last),
            ahead: known.and_then(|p| p.ahead),
            // Which events below the stored committed offset were committed follows from the `PriorEpoch` that is added
            // below.
            ..PartitionProgress::begin(partition, resume_offset)
        }
    };
    let partitions = (0..).zip(kept).map(resume).collect();
    let mut prior_epochs = stored.prior_epochs.clone();
    prior_epochs.extend(
        stored
            .settings
            .as_ref()
            .map(|it| PriorEpoch::of(&stored, it)),
    );
    for epoch in &mut prior_epochs {
        epoch
            .read_offsets
            .retain(|(partition, _)| !other(*partition));
    }
    let progress = Progress {
        settings: None,
        partitions,
        prior_epochs,
        ..stored
    };
    (progress, done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::settings::{Settings, WINDOW_MS};

    fn stored(settings: Option<Settings>, resume_offset: u64, read_offset: u64) -> Progress {
        let partition = PartitionProgress {
            resume_watermark_ms: 900,
            read_offset,
            ..PartitionProgress::begin(0, resume_offset)
        };
        Progress {
            settings,
            final_until_ms: 1000,
            partitions: vec![partition],
            ..Progress::default()
        }
    }

    fn settings() -> Option<Settings> {
        let settings = Settings::default();
        Some(settings.with(WINDOW_MS, "", 100).with(LATENESS_MS, "", 10))
    }

    #[test]
    fn records_that_were_deleted_unread_are_reported_and_the_others_are_read() {
        let kept = vec![8..20, 0..0];
        let topic_partition = crate::mismatch::TopicPartition {
            topic: "r".to_owned(),
            partition: 0,
        };
        let gone = [ProgressMismatch::Expired {
            topic_partition,
            resume: 5,
            start: 8,
        }];
        let (progress, done) = forget(stored(settings(), 5, 12), &kept, &gone, ResetFrom::Kept);
        assert_eq!((done.lost, done.records, done.replaced), (3, 12, 0));
        assert_eq!(progress.partitions[0].resume_offset, 8);
        // The epoch shows which events below the stored committed offset were committed, so they are not counted again.
        assert_eq!(progress.prior_epochs[0].read_offset(0), 12);
    }

    #[test]
    fn a_second_reset_keeps_the_prior_epochs_of_the_first_one() {
        let kept = vec![0..20, 0..0];
        let (first, _) = forget(stored(settings(), 5, 12), &kept, &[], ResetFrom::Kept);
        let (second, _) = forget(first.clone(), &kept, &[], ResetFrom::Kept);
        assert_eq!(first, second);
        assert_eq!((first.settings, first.prior_epochs.len()), (None, 1));
    }
}
