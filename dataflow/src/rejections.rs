//! Rejected records that wait for their transaction.
//!
//! Mostly they are written when a window closes. A flood of them would make that transaction grow
//! without bound, so when a partition's exceed [`MOST_UNWRITTEN_BYTES`] its reading waits, and what is
//! settled is written at once, with N behind it and F as it was.
//!
//! Invariants:
//! - One that is late is written once its window is final, with that commit or later: a run that begins
//!   with an earlier F reads it again, and may even count it.
//! - No N passes one that is settled and not written.
//! - The partition that waits is not what holds F back: all that it waits for ends before its own time.

use std::collections::BTreeMap;

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
    records: Vec<Rejected>,
    bytes: usize,
    /// N must be this at least: what was taken lies before it.
    written_offset: u64,
}

impl Rejections {
    /// Takes the next rejection of its partition in.
    pub fn push(&mut self, rejected: Rejected) {
        let waiting = self.waiting.entry(rejected.partition).or_default();
        waiting.bytes += rejected.bytes();
        waiting.records.push(rejected);
    }

    /// Whether a partition waits, or soon will, for some to be written.
    pub fn is_full(&self) -> bool {
        let full = |waiting: &Waiting| waiting.bytes > MOST_UNWRITTEN_BYTES / 2;
        self.waiting.values().any(full)
    }

    /// Those of `partition` that a commit with this N and this F holds.
    pub fn take_before(
        &mut self,
        partition: u32,
        read_offset: u64,
        final_until_ms: u64,
    ) -> Vec<Rejected> {
        let waiting = self.waiting.entry(partition).or_default();
        waiting.take(|it| it.offset < read_offset && it.settled_at_ms <= final_until_ms)
    }

    /// Those that a commit with this F may hold.
    pub fn take_settled(&mut self, final_until_ms: u64) -> Vec<Rejected> {
        let waiting = self.waiting.values_mut();
        let taken = waiting.flat_map(|w| w.take(|it| it.settled_at_ms <= final_until_ms));
        taken.collect()
    }

    /// The least N of `partition`: behind everything of it that was taken.
    pub fn written_offset(&self, partition: u32) -> u64 {
        let waiting = self.waiting.get(&partition);
        waiting.map_or(0, |waiting| waiting.written_offset)
    }
}

impl Waiting {
    fn take(&mut self, goes: impl Fn(&Rejected) -> bool) -> Vec<Rejected> {
        let taken: Vec<Rejected> = self.records.extract_if(.., |it| goes(it)).collect();
        self.bytes -= taken.iter().map(Rejected::bytes).sum::<usize>();
        if let Some(last) = taken.last() {
            self.written_offset = self.written_offset.max(last.offset + 1);
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
    fn none_is_written_before_it_is_settled() {
        let mut rejections = Rejections::default();
        for (partition, offset, settled) in [(0, 3, 0), (0, 5, 20), (0, 6, 0), (1, 9, 10)] {
            rejections.push(rejected(partition, offset, settled, 0));
        }
        let taken = rejections.take_settled(10);
        assert_eq!(offsets(taken), [(0, 3), (0, 6), (1, 9)]);
        let written = (rejections.written_offset(0), rejections.written_offset(1));
        assert_eq!(written, (7, 10));
        assert_eq!(offsets(rejections.take_settled(19)), []);
        assert_eq!(offsets(rejections.take_settled(20)), [(0, 5)]);
        assert_eq!(rejections.written_offset(0), 7);
    }

    #[test]
    fn a_commit_holds_what_is_settled_before_its_n() {
        let mut rejections = Rejections::default();
        for (offset, settled) in [(1, 0), (4, 30), (6, 20), (8, 0)] {
            rejections.push(rejected(2, offset, settled, 0));
        }
        assert_eq!(offsets(rejections.take_before(2, 8, 20)), [(2, 1), (2, 6)]);
        assert_eq!(offsets(rejections.take_before(2, 9, 30)), [(2, 4), (2, 8)]);
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
