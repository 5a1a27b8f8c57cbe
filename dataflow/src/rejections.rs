//! Rejected records that wait for their transaction, and how far that lets N go.
//!
//! ```text
//!  offsets of a partition  ──✗───✗──────────✗───▶      ✗ rejected, not written yet
//!                            └ N stays at or before the first of them
//! ```
//!
//! Mostly they are written when a window closes. A flood of them would make that transaction grow
//! without bound, so when a partition's exceed [`MOST_UNWRITTEN_BYTES`] its reading waits, and what is
//! settled is written at once, with N behind it and F as it was.
//!
//! Invariants:
//! - A partition's rejections are written in the order of their offsets, so N behind the last of them
//!   passes none that is not written.
//! - Between two closes, one that is late is written only once its window is final: a run that begins
//!   with an earlier F must not count what was rejected.
//! - The partition that waits is not what holds F back: all that it waits for ends before its own time.

use std::collections::{BTreeMap, VecDeque};

use crate::partition::Rejected;

/// The most bytes of a partition's rejections that are not written, and one poll more: some giant
/// records, or thousands of small ones, yet 64 partitions of them fit a transaction.
pub const MOST_UNWRITTEN_BYTES: usize = 1024 * 1024;

/// What waits, by partition.
#[derive(Debug, Default)]
pub struct Rejections {
    waiting: BTreeMap<u32, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Rejected>,
    bytes: usize,
    /// N may be this at least: everything rejected before it is written.
    written_offset: u64,
}

impl Rejections {
    /// Takes the next rejection of its partition in.
    pub fn push(&mut self, rejected: Rejected) {
        let waiting = self.waiting.entry(rejected.partition).or_default();
        waiting.bytes += rejected.bytes();
        waiting.records.push_back(rejected);
    }

    /// Whether a partition waits, or soon will, for some to be written.
    pub fn is_full(&self) -> bool {
        let full = |waiting: &Waiting| waiting.bytes > MOST_UNWRITTEN_BYTES / 2;
        self.waiting.values().any(full)
    }

    /// Those of `partition` before `read_offset`: a commit that says so must hold them all.
    pub fn take_before(&mut self, partition: u32, read_offset: u64) -> Vec<Rejected> {
        let waiting = self.waiting.entry(partition).or_default();
        waiting.take_while(|rejected| rejected.offset < read_offset)
    }

    /// Those that a commit with this F may hold.
    pub fn take_settled(&mut self, final_until_ms: u64) -> Vec<Rejected> {
        let settled = |rejected: &Rejected| rejected.settled_at_ms <= final_until_ms;
        let waiting = self.waiting.values_mut();
        waiting.flat_map(|w| w.take_while(settled)).collect()
    }

    /// The least N of `partition`: behind everything of it that was taken.
    pub fn written_offset(&self, partition: u32) -> u64 {
        let waiting = self.waiting.get(&partition);
        waiting.map_or(0, |waiting| waiting.written_offset)
    }
}

impl Waiting {
    fn take_while(&mut self, goes: impl Fn(&Rejected) -> bool) -> Vec<Rejected> {
        let mut taken = Vec::new();
        while let Some(rejected) = self.records.pop_front_if(|first| goes(first)) {
            self.bytes -= rejected.bytes();
            self.written_offset = rejected.offset + 1;
            taken.push(rejected);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(partition: u32, offset: u64, settled_at_ms: u64, bytes: usize) -> Rejected {
        Rejected {
            partition,
            offset,
            time_ms: 0,
            settled_at_ms,
            reason: "late".to_owned(),
            key: None,
            value: vec![0; bytes],
        }
    }

    fn offsets(taken: Vec<Rejected>) -> Vec<(u32, u64)> {
        taken.into_iter().map(|r| (r.partition, r.offset)).collect()
    }

    #[test]
    fn none_is_written_before_it_is_settled_and_none_is_passed() {
        let mut rejections = Rejections::default();
        for (partition, offset, settled) in [(0, 3, 0), (0, 5, 20), (0, 6, 0), (1, 9, 10)] {
            rejections.push(rejected(partition, offset, settled, 0));
        }
        assert_eq!(offsets(rejections.take_settled(10)), [(0, 3), (1, 9)]);
        assert_eq!(
            (rejections.written_offset(0), rejections.written_offset(1)),
            (4, 10)
        );
        assert_eq!(offsets(rejections.take_settled(19)), []);
        assert_eq!(offsets(rejections.take_settled(20)), [(0, 5), (0, 6)]);
        assert_eq!(rejections.written_offset(0), 7);
    }

    #[test]
    fn a_commit_holds_all_before_its_n() {
        let mut rejections = Rejections::default();
        for offset in [1, 4, 8] {
            rejections.push(rejected(2, offset, 99, 0));
        }
        assert_eq!(offsets(rejections.take_before(2, 8)), [(2, 1), (2, 4)]);
        assert_eq!(rejections.written_offset(2), 5);
    }

    #[test]
    fn it_is_full_by_bytes_until_they_are_written() {
        let mut rejections = Rejections::default();
        rejections.push(rejected(0, 0, 0, MOST_UNWRITTEN_BYTES));
        assert!(rejections.is_full());
        rejections.take_settled(0);
        assert!(!rejections.is_full());
    }
}
