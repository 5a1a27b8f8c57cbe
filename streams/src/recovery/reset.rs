//! Forgets progress on purpose: the settings it was made under, offsets that the log no longer holds, and, after
//! a clock was wrong, up to when everything is final.
//!
//! ```text
//!  read ─▶ plan ─▶ agreed? ─▶ fence ─▶ read, plan again: the same? ─▶ write progress without settings
//! ```
//!
//! Invariants:
//! - What is final stays final and is never counted again, but for windows after the time to which the final
//!   time is set back on purpose: they may get a second final, of other events. What lies between the final
//!   time and a later one becomes late, and is not lost.
//! - What was counted or rejected under the former settings is neither a second time: they are kept
//!   with the progress as [`Former`], until nothing below their N is read again and time has passed their F.
//! - After the final time was set back, what is in the log already and newer than it by more than records may be
//!   ahead moves no time: see [`AheadLimit`]. That depends on the log and the progress alone.

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
        record::{AheadLimit, CommitId, Former, PartitionProgress, Progress, Resets},
        settings::LATENESS_MS,
        stored::progress_record,
        validate::{compare, missing_finals},
    },
    time::{clock::MAX_AHEAD_MS, moment},
    topics::Topics,
};

/// How long brokers may take to tell the ends of partitions.
const PATIENCE: Duration = Duration::from_secs(8);

/// A final's record is written after its window, by clocks that may differ by so much.
const WRITTEN_EARLY_MS: u64 = 60_000;

/// How many finals are listed one by one.
const LISTED: usize = 20;

/// The timeout of the transaction that writes the progress.
const RESET_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the next run begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFrom {
    /// Where the last one stood, as far as the log holds that.
    Kept,
    /// Behind everything that is in the log now.
    Latest,
}

/// What a reset is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetRequest {
    /// Where the next run begins to read.
    pub from: ResetFrom,
    /// Up to when everything is final, Unix milliseconds; `None`: as it is.
    pub final_until_ms: Option<u64>,
    /// Whether records that are ahead of the clock now are rejected. Alone it changes nothing else.
    pub reject_ahead: bool,
    /// This host's time, Unix milliseconds.
    pub now_ms: u64,
}

/// What becomes of the final time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalTime {
    /// It stays.
    Kept,
    /// It is set back.
    Backward,
    /// It is set forward.
    Forward,
    /// No progress is stored: it begins there.
    Begun,
}

/// Finals of windows that end after a time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinalsAfter {
    /// How many.
    pub finals: u64,
    /// The events in them.
    pub events: u64,
    /// The first of them: end of the window, key, events.
    pub first: Vec<(u64, String, u64)>,
}

/// What a plan rests on: where that has changed, the reset is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basis {
    /// What becomes of F.
    final_time: FinalTime,
    /// How often the final time was set back before.
    resets: u64,
    /// Whether the progress is that of a run, not of a reset.
    of_a_run: bool,
}

/// What a reset will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What it rests on.
    pub basis: Basis,
    /// F before, Unix milliseconds; 0 if no progress is stored.
    pub stored_until_ms: u64,
    /// F afterwards, Unix milliseconds.
    pub final_until_ms: u64,
    /// What becomes of F.
    pub final_time: FinalTime,
    /// The finals that lie after F then.
    pub finals_after: FinalsAfter,
}

/// What a reset did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The partitions of the source.
    pub partitions: u32,
    /// F: finals up to here stay. Unix milliseconds.
    pub final_until_ms: u64,
    /// The records from where the last run stood to the end of the log: to be read, or skipped.
    pub records: u64,
    /// Records that were deleted before they were counted.
    pub lost: u64,
    /// Partitions that hold other records than were read, or fewer, and are read from their beginning.
    pub replaced: u32,
    /// Without stored progress: the records of up to F, which count as settled.
    pub settled: u64,
}

/// What `request` would do; nothing is changed. `None` if there is nothing to reset.
pub fn plan(
    topics: &Topics,
    log: &dyn Log,
    request: &ResetRequest,
) -> Result<Option<Plan>, StreamsError> {
    let stored = stored_progress(topics, log)?;
    if stored.is_none() && request.final_until_ms.is_none() {
        // Finals without progress: it was lost, and only a final time is a way on.
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

/// Fences whatever runs, and does what was planned. [`StreamsError::ProgressMoved`] if that is something else
/// by now.
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
            progress.formers.extend(lost);
            (progress, done)
        }
    };
    let mut progress = Progress {
        cluster_id: log.cluster_id(),
        newest_final_ms: progress
            .newest_final_ms
            .max(newest_final_ms)
            .max(progress.final_until_ms),
        // What tells it from a run's record; see `Progress::is_of_a_reset`.
        run: None,
        heartbeat_ms: Some(HEARTBEAT.as_millis() as u64),
        ..progress
    };
    let missing = missing_finals(&topics.finals, log, &progress.unwritten);
    if missing.map_err(StreamsError::Start)?.is_some() {
        progress.unwritten = unknown_tables();
    }
    let set_back = final_until_ms < progress.newest_final_ms && request.final_until_ms.is_some();
    // A final time that moves forward again, but not yet beyond all finals, is of the same number.
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
    // A run whose commit fails must not take the progress for its own.
    record.headers.push(CommitId::first().header());
    let records = vec![record];
    transactor.commit(records).map_err(StreamsError::Start)?;
    Ok(Reset {
        final_until_ms,
        ..done
    })
}

/// F afterwards, and what becomes of it; `None` if there is nothing to reset.
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
            "{} is ahead of this host's clock ({}); nothing would be counted until then",
            moment(wanted_ms),
            moment(request.now_ms)
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

/// The finals of windows that end after `until_ms`.
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
            after.first.truncate(LISTED);
        }
    };
    let since_ms = until_ms.saturating_sub(WRITTEN_EARLY_MS);
    match read_since(log, &topics.finals, since_ms, &mut keep) {
        Ok(()) | Err(LogError::UnknownTopic { .. }) => Ok(after),
        Err(error) => Err(StreamsError::Start(error)),
    }
}

/// The end of each partition, open transactions included.
fn ends(log: &dyn Log, topic: &str) -> Result<Vec<u64>, StreamsError> {
    let ends = log.high_watermarks(topic, PATIENCE);
    let ends = ends.and_then(|ends| ends.into_iter().collect());
    ends.map_err(StreamsError::Start)
}

/// The progress of a deployment that has none: whatever is in the log and of up to `final_until_ms` counts as
/// settled; without a final time nothing does.
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
    // A record holds nothing that is further ahead of its own time.
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
    let settled = (settled_ms > 0).then(|| Former {
        // The windows are not known: every event before that time counts as settled.
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
        formers: settled.into_iter().collect(),
        ..Progress::default()
    };
    Ok((progress, done))
}

/// It is not known which records of tables are complete: the next run adds all finals that are kept and later than their
/// record of their key.
fn unknown_tables() -> Unwritten {
    Unwritten {
        since: Some(ResultOrder::default()),
        finals: None,
    }
}

/// What was settled by commits that rolled back progress does not know: whatever is in the log and of windows up to
/// the newest final.
fn lost_commits(
    log: &dyn Log,
    topic: &str,
    stored: &Progress,
    newest_final_ms: u64,
) -> Result<Option<Former>, StreamsError> {
    if newest_final_ms <= stored.newest_final_ms.max(stored.final_until_ms) {
        return Ok(None);
    }
    let window_ms = stored.window_ms();
    Ok(Some(Former {
        // Without a known window, events before the newest final's end.
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

/// Progress whose offsets are another cluster's.
fn without_offsets(stored: Progress) -> Progress {
    Progress {
        settings: None,
        partitions: Vec::new(),
        formers: Vec::new(),
        ..stored
    }
}

/// The progress that goes on as it is, but for other limits of what is rejected as `ahead`.
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
    // What was counted or rejected until now stays so. What was read and not settled is judged by the new limits,
    // which ask N whether it was rejected already: it is read again from R.
    if let Some(settings) = stored.settings.clone() {
        let former = Former::of(&stored, &settings);
        stored.formers.push(former);
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

/// The progress that goes on from `stored` in a log that holds `kept`.
fn forget(
    stored: Progress,
    kept: &[Range<u64>],
    mismatches: &[ProgressMismatch],
    from: ResetFrom,
) -> (Progress, Reset) {
    let other = |partition: u32| {
        let replaced = |m: &&ProgressMismatch| !matches!(m, ProgressMismatch::Gone { .. });
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
            // Of a later offset it may be greater, never less.
            resume_watermark_ms: known.map_or(0, |p| p.resume_watermark_ms),
            last: known.and_then(|p| p.last),
            ahead: known.and_then(|p| p.ahead),
            // What was settled below the former N, the former settings tell.
            ..PartitionProgress::begin(partition, resume_offset)
        }
    };
    let partitions = (0..).zip(kept).map(resume).collect();
    let mut formers = stored.formers.clone();
    formers.extend(stored.settings.as_ref().map(|it| Former::of(&stored, it)));
    for former in &mut formers {
        former
            .read_offsets
            .retain(|(partition, _)| !other(*partition));
    }
    let progress = Progress {
        settings: None,
        partitions,
        formers,
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
    fn what_was_deleted_unread_is_told_and_the_rest_is_read() {
        let kept = vec![8..20, 0..0];
        let place = crate::mismatch::Place {
            topic: "r".to_owned(),
            partition: 0,
        };
        let gone = [ProgressMismatch::Gone {
            place,
            resume: 5,
            start: 8,
        }];
        let (progress, done) = forget(stored(settings(), 5, 12), &kept, &gone, ResetFrom::Kept);
        assert_eq!((done.lost, done.records, done.replaced), (3, 12, 0));
        assert_eq!(progress.partitions[0].resume_offset, 8);
        // Below the former N, what was settled stays so.
        assert_eq!(progress.formers[0].read_offset(0), 12);
    }

    #[test]
    fn a_second_reset_keeps_what_the_first_knew() {
        let kept = vec![0..20, 0..0];
        let (first, _) = forget(stored(settings(), 5, 12), &kept, &[], ResetFrom::Kept);
        let (second, _) = forget(first.clone(), &kept, &[], ResetFrom::Kept);
        assert_eq!(first, second);
        assert_eq!((first.settings, first.formers.len()), (None, 1));
    }
}
