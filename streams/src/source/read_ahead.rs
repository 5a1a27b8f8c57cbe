//! Limits how far partitions are read ahead of the durable frontier, up to which all results are committed. So the
//! memory is bounded while a backlog is read, or while one partition holds back the frontier.
//!
//! Invariants:
//! - The partition with the lowest watermark is always read if the frontier cannot advance without its records.
//! - While no partition is held, a partition is read ahead by at most the idle timeout and some windows. The other
//!   partitions may have no records for the idle timeout before they count as idle. While a partition is held, the hold
//!   timeout is added, so that updates with the events of the other partitions continue.

use std::{collections::BTreeMap, time::Duration};

use emostream_protocol::WindowSize;

/// Number of windows by which a partition may be read ahead in addition to the timeouts. With this number, the next
/// windows can be read while the transaction of a window is in flight.
const WINDOWS: u64 = 4;

/// Maximum bytes of records that a worker reads ahead of the durable frontier. The counts of records need less memory
/// than the records, except if each event has a key of its own.
const MAX_BYTES: u64 = 256 << 20;

/// The bytes that one worker has read ahead.
#[derive(Debug)]
pub struct ReadAhead {
    size: WindowSize,
    idle_ms: u64,
    hold_ms: u64,
    /// For each window, the bytes of the records after which the watermark of their partition was in this window. The
    /// key is the start of the window.
    bytes: BTreeMap<u64, u64>,
    total: u64,
}

/// The times that decide whether a partition may be read further.
#[derive(Debug, Clone, Copy)]
pub struct ReadPosition {
    /// The watermark of the partition.
    pub watermark_ms: u64,
    /// The lowest watermark of the partitions that hold back the frontier.
    pub lowest_ms: u64,
    /// The durable frontier: the results of windows that end by this time are durable.
    pub durable_ms: u64,
    /// Whether any partition of the source is held.
    pub holding: bool,
}

impl ReadAhead {
    /// Creates the state of a worker that has read nothing yet.
    pub fn new(size: WindowSize, idle_timeout: Duration, hold_timeout: Duration) -> ReadAhead {
        let ms = |timeout: Duration| timeout.as_millis() as u64;
        ReadAhead {
            size,
            idle_ms: ms(idle_timeout),
            hold_ms: ms(hold_timeout),
            bytes: BTreeMap::new(),
            total: 0,
        }
    }

    /// Notes that `bytes` were read from a partition whose watermark is `watermark_ms` now.
    pub fn add(&mut self, watermark_ms: u64, bytes: u64) {
        *self.bytes.entry(self.size.floor(watermark_ms)).or_default() += bytes;
        self.total += bytes;
    }

    /// Subtracts the bytes of windows that end by `durable_ms`, since the results of these windows are durable.
    pub fn release(&mut self, durable_ms: u64) {
        let ahead = self.bytes.split_off(&durable_ms);
        let durable = std::mem::replace(&mut self.bytes, ahead);
        self.total -= durable.values().sum::<u64>();
    }

    /// Whether a partition may be read further.
    pub fn allows(&self, at: ReadPosition) -> bool {
        let awaited =
            at.watermark_ms <= at.lowest_ms && self.size.floor(at.lowest_ms) <= at.durable_ms;
        let hold_ms = if at.holding { self.hold_ms } else { 0 };
        let ahead_ms = WINDOWS
            .saturating_mul(self.size.as_ms())
            .saturating_add(self.idle_ms)
            .saturating_add(hold_ms);
        // After a time without records, the first watermark may be far later than the durable frontier. So if the first
        // window that was read is later than the durable frontier, the limit is counted from that window.
        let oldest_ms = self
            .bytes
            .first_key_value()
            .map_or(0, |(window_ms, _)| *window_ms);
        let limit_ms = at.durable_ms.max(oldest_ms).saturating_add(ahead_ms);
        awaited || (self.size.floor(at.watermark_ms) <= limit_ms && self.total <= MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    fn read_ahead() -> ReadAhead {
        let size = WindowSize::from_ms(2_000).unwrap();
        ReadAhead::new(size, Duration::from_secs(10), Duration::from_secs(60))
    }

    const AT: ReadPosition = ReadPosition {
        watermark_ms: 118_000,
        lowest_ms: 100_500,
        durable_ms: 100_000,
        holding: false,
    };

    #[test]
    fn during_a_hold_others_are_read_ahead_as_long_as_it_may_last() {
        let ahead = read_ahead();
        assert!(ahead.allows(AT));
        let further = ReadPosition {
            watermark_ms: 120_000,
            ..AT
        };
        assert!(!ahead.allows(further));
        let holding = ReadPosition {
            watermark_ms: 178_000,
            holding: true,
            ..AT
        };
        assert!(ahead.allows(holding));
        let beyond = ReadPosition {
            watermark_ms: 180_000,
            ..holding
        };
        assert!(!ahead.allows(beyond));
    }

    #[test]
    fn a_hold_that_begins_after_a_long_silence_lets_the_others_be_read() {
        let mut ahead = read_ahead();
        ahead.add(30_000_000, 100);
        let after_silence = ReadPosition {
            watermark_ms: 30_070_000,
            holding: true,
            ..AT
        };
        assert!(ahead.allows(after_silence));
    }

    #[test]
    fn too_many_bytes_pause_all_partitions_but_the_one_that_the_frontier_waits_for() {
        let mut ahead = read_ahead();
        ahead.add(100_000, MAX_BYTES);
        ahead.add(118_000, 1);
        assert!(!ahead.allows(AT));
        let lowest = ReadPosition {
            watermark_ms: 100_500,
            ..AT
        };
        assert!(ahead.allows(lowest));
        // The windows that were read can become durable without further records of this partition, so the partition is
        // paused.
        let committing = ReadPosition {
            lowest_ms: 118_000,
            ..AT
        };
        assert!(!ahead.allows(committing));
        ahead.release(100_000);
        assert!(!ahead.allows(AT));
        ahead.release(102_000);
        assert!(ahead.allows(AT));
    }
}
