//! Reads the present records of a topic: from the beginning, from a time or from an offset, to the end.

#![allow(
    clippy::disallowed_methods,
    reason = "measures for how long reads return no record"
)]

use std::{
    collections::BTreeSet,
    ops::Range,
    time::{Duration, Instant},
};

use crate::{Log, LogError, Record, WakeSignal};

/// Maximum time for which a read may return no record before it has reached the end. After that the read fails, since
/// the broker does not respond.
const STALLED: Duration = Duration::from_secs(10);

/// Measures for how long a read has returned no record.
pub struct StallTimer {
    last_record: Instant,
}

impl StallTimer {
    /// Starts the timer.
    pub fn start() -> StallTimer {
        StallTimer {
            last_record: Instant::now(),
        }
    }

    /// Restarts the timer after a record.
    pub fn reset(&mut self) {
        *self = StallTimer::start();
    }

    /// Returns the time without a record.
    pub fn elapsed(&self) -> Duration {
        self.last_record.elapsed()
    }

    /// Returns [`LogError::TimedOut`] if reading `what` has returned no record for ten seconds. Returns no error while
    /// the log denies this client a permission: if the denial lasts, the reader itself returns it.
    pub fn check(&self, log: &dyn Log, what: &str) -> Result<(), LogError> {
        if self.elapsed() <= STALLED || log.denied().is_some() {
            return Ok(());
        }
        let detail = format!("no record of {what} was read for too long");
        Err(LogError::TimedOut { detail })
    }
}

/// Maximum records of one poll.
const POLL_RECORDS: usize = 1000;

/// Passes all present records of `topic` to `each`, partition by partition in order.
///
/// Blocks until the end is reached. Fails if the log returns no record for ten seconds.
pub fn read_to_end(
    log: &dyn Log,
    topic: &str,
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let range = non_empty(log, topic)?;
    let from: Vec<(u32, u64)> = range
        .into_iter()
        .map(|(p, range)| (p, range.start))
        .collect();
    read_from(log, topic, &from, each)
}

/// Reads a topic as [`read_to_end`] does, but starts in each partition at the first record whose time is `since_ms` or
/// later.
pub fn read_since(
    log: &dyn Log,
    topic: &str,
    since_ms: u64,
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let range = log.offsets(topic)?;
    let since = log.offsets_at(topic, since_ms)?;
    let start = |(partition, (range, since)): (u32, (Range<u64>, u64))| {
        let start = since.max(range.start);
        (start < range.end).then_some((partition, start))
    };
    let partitions = (0..).zip(range.into_iter().zip(since));
    let from: Vec<(u32, u64)> = partitions.filter_map(start).collect();
    read_from(log, topic, &from, each)
}

/// Reads a topic as [`read_to_end`] does, but only the last `offsets` offsets of each partition. If there is no record
/// among them (transaction markers have offsets, too), the range is extended backwards until it contains a record.
pub fn read_last(
    log: &dyn Log,
    topic: &str,
    offsets: u64,
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let mut wanted = non_empty(log, topic)?;
    let mut last = offsets;
    while !wanted.is_empty() {
        let start = |range: &Range<u64>| range.end.saturating_sub(last).max(range.start);
        let from: Vec<(u32, u64)> = wanted.iter().map(|(p, range)| (*p, start(range))).collect();
        let mut found = BTreeSet::new();
        read_from(log, topic, &from, &mut |record| {
            found.insert(record.partition);
            each(record);
        })?;
        wanted
            .retain(|(partition, range)| !found.contains(partition) && start(range) > range.start);
        last = last.saturating_mul(8);
    }
    Ok(())
}

/// Returns the offset ranges of the partitions that are not empty.
fn non_empty(log: &dyn Log, topic: &str) -> Result<Vec<(u32, Range<u64>)>, LogError> {
    let range = (0..).zip(log.offsets(topic)?);
    Ok(range.filter(|(_, range)| !range.is_empty()).collect())
}

/// Reads a topic as [`read_to_end`] does, but only the partitions in `from`, each from its given offset, which the log
/// must still store.
pub fn read_from(
    log: &dyn Log,
    topic: &str,
    from: &[(u32, u64)],
    each: &mut dyn FnMut(Record<'_>),
) -> Result<(), LogError> {
    let signal = WakeSignal::default();
    let mut reader = log.scanner(topic, from, signal.wake())?;
    let mut unread: Vec<u32> = from.iter().map(|(partition, _)| *partition).collect();
    let mut stall = StallTimer::start();
    while !unread.is_empty() {
        let mut records = 0;
        for partition in &unread {
            records += reader.poll(*partition, POLL_RECORDS, each)?;
        }
        unread.retain(|partition| !reader.at_end(*partition));
        if records > 0 {
            stall.reset();
        } else if !unread.is_empty() {
            stall.check(log, topic)?;
            signal.wait(Duration::from_millis(100));
        }
    }
    Ok(())
}
