//! Reading a topic from its beginning, or from a moment, to where it ended when the reading began.

#![allow(clippy::disallowed_methods, reason = "times reads that bring nothing")]

use std::{
    collections::BTreeSet,
    ops::Range,
    time::{Duration, Instant},
};

use crate::{Doorbell, Log, LogError, Record};

/// Nothing new for this long, although the end was not reached: the broker is away.
const STALLED: Duration = Duration::from_secs(10);

/// How long a reading up to an end has brought nothing.
pub struct StallTimer {
    last_news: Instant,
}

impl StallTimer {
    /// Begins now.
    pub fn start() -> StallTimer {
        StallTimer {
            last_news: Instant::now(),
        }
    }

    /// Something came: begins again.
    pub fn news(&mut self) {
        *self = StallTimer::start();
    }

    /// How long nothing has come.
    pub fn elapsed(&self) -> Duration {
        self.last_news.elapsed()
    }

    /// [`LogError::TimedOut`] if reading `what` has brought nothing for ten seconds. Not while the log denies this
    /// client something: its reader reports a denial that lasts.
    pub fn check(&self, log: &dyn Log, what: &str) -> Result<(), LogError> {
        if self.elapsed() <= STALLED || log.denied().is_some() {
            return Ok(());
        }
        let detail = format!("reading {what} stands still");
        Err(LogError::TimedOut { detail })
    }
}

/// Records of one partition taken at once.
const POLL_RECORDS: usize = 1000;

/// Hands every record that `topic` holds now to `each`, partition by partition in order.
///
/// Waits for the log; gives up when it brings nothing for ten seconds.
pub fn read_to_end(
    log: &dyn Log,
    topic: &str,
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let kept = non_empty(log, topic)?;
    let from: Vec<(u32, u64)> = kept.into_iter().map(|(p, kept)| (p, kept.start)).collect();
    read_from(log, topic, &from, each)
}

/// As [`read_to_end`], but leaves out, in each partition, what comes before the first record whose time
/// is `since_ms` or later.
pub fn read_since(
    log: &dyn Log,
    topic: &str,
    since_ms: u64,
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let kept = log.offsets(topic)?;
    let since = log.offsets_at(topic, since_ms)?;
    let start = |(partition, (kept, since)): (u32, (Range<u64>, u64))| {
        let start = since.max(kept.start);
        (start < kept.end).then_some((partition, start))
    };
    let partitions = (0..).zip(kept.into_iter().zip(since));
    let from: Vec<(u32, u64)> = partitions.filter_map(start).collect();
    read_from(log, topic, &from, each)
}

/// As [`read_to_end`], but of each partition only the records of the last `offsets` offsets; of one that holds
/// none there (transactions leave marks), those before, until there are some.
pub fn read_last(
    log: &dyn Log,
    topic: &str,
    offsets: u64,
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let mut wanted = non_empty(log, topic)?;
    let mut last = offsets;
    while !wanted.is_empty() {
        let start = |kept: &Range<u64>| kept.end.saturating_sub(last).max(kept.start);
        let from: Vec<(u32, u64)> = wanted.iter().map(|(p, kept)| (*p, start(kept))).collect();
        let mut found = BTreeSet::new();
        read_from(log, topic, &from, &mut |record| {
            found.insert(record.partition);
            each(record);
        })?;
        wanted.retain(|(partition, kept)| !found.contains(partition) && start(kept) > kept.start);
        last = last.saturating_mul(8);
    }
    Ok(())
}

/// What the partitions that hold something keep.
fn non_empty(log: &dyn Log, topic: &str) -> Result<Vec<(u32, Range<u64>)>, LogError> {
    let kept = (0..).zip(log.offsets(topic)?);
    Ok(kept.filter(|(_, kept)| !kept.is_empty()).collect())
}

/// As [`read_to_end`], but only of these partitions, each from an offset on that it holds.
pub fn read_from(
    log: &dyn Log,
    topic: &str,
    from: &[(u32, u64)],
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let bell = Doorbell::default();
    let mut reader = log.scanner(topic, from, bell.wake())?;
    let mut unread: Vec<u32> = from.iter().map(|(partition, _)| *partition).collect();
    let mut stall = StallTimer::start();
    while !unread.is_empty() {
        let mut news = 0;
        for partition in &unread {
            news += reader.poll(*partition, POLL_RECORDS, each)?;
        }
        unread.retain(|partition| !reader.at_end(*partition));
        if news > 0 {
            stall.news();
        } else if !unread.is_empty() {
            stall.check(log, topic)?;
            bell.wait(Duration::from_millis(100));
        }
    }
    Ok(())
}
