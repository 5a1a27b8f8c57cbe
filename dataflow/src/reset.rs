//! Forgets progress on purpose: the settings it was made under, and offsets that the log no longer
//! holds. Never F.
//!
//! ```text
//!  fence ─▶ read progress ─▶ compare with the log ─▶ write progress without settings
//! ```
//!
//! Invariants:
//! - What is final stays final, and is never counted again: the next run begins with the same F, or the
//!   next greater one that its windows know. What lies between becomes late, and is not lost.
//! - What was counted or rejected under the former settings is neither a second time: they are kept
//!   with the progress as [`Former`], until nothing below their N is read again.

use std::ops::Range;

use emostream_log::Log;
use emostream_model::Topics;

use crate::{
    DataflowError,
    fit::{Misfit, compare},
    progress::{FORMAT, Former, PartitionProgress, Progress},
    recovery::{self, fence},
    sink::progress_record,
};

/// Where the next run begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFrom {
    /// Where the last one stood, as far as the log holds that.
    Kept,
    /// Behind everything that is in the log now.
    Latest,
}

/// What a reset did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// The partitions of the reactions.
    pub partitions: u32,
    /// F: finals up to here stay. Unix milliseconds.
    pub final_until_ms: u64,
    /// The records from where the last run stood to the end of the log: to be read, or skipped.
    pub records: u64,
    /// Records that were deleted before they were counted.
    pub lost: u64,
    /// Partitions that hold other records than were read, or fewer, and are read from their beginning.
    pub anew: u32,
}

/// Where the dataflow stands; `None` if it never committed.
pub fn stored(topics: &Topics, log: &dyn Log) -> Result<Option<Progress>, DataflowError> {
    recovery::stored(topics, log)
}

/// Fences whatever runs, and makes any settings able to go on. `None` if no progress is stored.
pub fn reset(
    topics: &Topics,
    log: &dyn Log,
    from: ResetFrom,
) -> Result<Option<Reset>, DataflowError> {
    let mut transactor = fence(topics, log)?;
    let Some(stored) = recovery::stored(topics, log)? else {
        return Ok(None);
    };
    let (kept, misfits) =
        compare(&topics.reactions(), log, &stored).map_err(DataflowError::Start)?;
    let (progress, done) = forget(stored, &kept, &misfits, from);
    let records = vec![progress_record(topics, &progress)];
    transactor.commit(records).map_err(DataflowError::Start)?;
    Ok(Some(done))
}

/// The progress that goes on from `stored` in a log that holds `kept`.
fn forget(
    stored: Progress,
    kept: &[Range<u64>],
    misfits: &[Misfit],
    from: ResetFrom,
) -> (Progress, Reset) {
    let other = |partition: u32| {
        let anew = |m: &&Misfit| !matches!(m, Misfit::Gone { .. });
        let of = misfits.iter().filter(anew).map(Misfit::partition);
        of.into_iter().any(|p| p == partition)
    };
    let mut done = Reset {
        partitions: kept.len() as u32,
        final_until_ms: stored.final_until_ms,
        records: 0,
        lost: 0,
        anew: 0,
    };
    let resume = |(partition, kept): (u32, &Range<u64>)| {
        let known = stored.partitions.iter().find(|p| p.partition == partition);
        done.anew += u32::from(other(partition));
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
            partition,
            resume_offset,
            // Of a later offset it may be greater, never less.
            resume_watermark_ms: known.map_or(0, |p| p.resume_watermark_ms),
            // What was settled below the former N, the former settings tell.
            read_offset: resume_offset,
            last: known.and_then(|p| p.last),
        }
    };
    let partitions = (0..).zip(kept).map(resume).collect();
    let mut formers = stored.formers.clone();
    formers.extend(stored.settings.as_ref().map(|settings| {
        Former {
            window_ms: settings.window_ms,
            lateness_ms: settings.lateness_ms,
            final_until_ms: stored.final_until_ms,
            read_offsets: stored
                .partitions
                .iter()
                .map(|p| (p.partition, p.read_offset))
                .collect(),
        }
    }));
    for former in &mut formers {
        former
            .read_offsets
            .retain(|(partition, _)| !other(*partition));
    }
    let progress = Progress {
        format: FORMAT,
        settings: None,
        final_until_ms: stored.final_until_ms,
        partitions,
        formers,
    };
    (progress, done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Settings;

    fn stored(settings: Option<Settings>, resume_offset: u64, read_offset: u64) -> Progress {
        let partition = PartitionProgress {
            partition: 0,
            resume_offset,
            resume_watermark_ms: 900,
            read_offset,
            last: None,
        };
        Progress {
            settings,
            final_until_ms: 1000,
            partitions: vec![partition],
            ..Progress::nothing()
        }
    }

    fn settings() -> Option<Settings> {
        Some(Settings {
            reactions: "r".to_owned(),
            window_ms: 100,
            lateness_ms: 10,
            swarm_size: 1,
        })
    }

    #[test]
    fn what_was_deleted_unread_is_told_and_the_rest_is_read() {
        let kept = vec![8..20, 0..0];
        let place = crate::fit::Place {
            topic: "r".to_owned(),
            partition: 0,
        };
        let gone = [Misfit::Gone {
            place,
            resume: 5,
            start: 8,
        }];
        let (progress, done) = forget(stored(settings(), 5, 12), &kept, &gone, ResetFrom::Kept);
        assert_eq!((done.lost, done.records, done.anew), (3, 12, 0));
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
