//! Buffers rejected records (*rejections*) until their transaction.
//!
//! Usually rejections are written when a window closes. Very many rejections would make that transaction grow without a
//! bound. So when the unwritten rejections of a partition exceed [`MAX_UNWRITTEN_BYTES`], the source pauses the
//! partition, and the sink writes those that may be written at once (see below). Their transaction moves the committed
//! offset past them and does not change the final-until time.
//!
//! A rejection is *settled* once its window is final, or at once if it has no window.
//!
//! Invariants:
//! - A rejection is not written before it is settled. Until then, a run that begins with an earlier final-until time
//!   reads the record again, and may even count an event that was late.
//! - No commit has a committed offset after a rejection that is settled and not written.
//! - A paused partition does not hold back the final-until time: it waits only for rejections of windows that its own
//!   watermark has passed. An event whose item is not known may belong to a window that its own partition holds open.

use std::collections::BTreeMap;

use bytes::Bytes;
use emostream_log::NewRecord;
use serde::{Deserialize, Serialize};

/// Maximum bytes of the unwritten rejections of a partition: some very large records, or thousands of small ones. The
/// rejections of one poll may exceed it. With this limit, one transaction can contain the rejections of 64 partitions.
pub const MAX_UNWRITTEN_BYTES: usize = 1024 * 1024;

/// Approximate bytes of the headers of a rejected record, and of its other fields in memory.
const REJECTION_OVERHEAD_BYTES: usize = 256;

/// A record, or the part of one, that is written to the topic of rejected records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejected {
    /// The partition of the source record.
    pub partition: u32,
    /// The offset of the source record.
    pub offset: u64,
    /// The time of the source record, Unix milliseconds.
    pub time_ms: u64,
    /// The earliest final-until time of a commit that may contain the rejection: the end of its window, or the
    /// final-until time when the record was read, if that is later. 0 if the rejection has no window.
    pub settled_at_ms: u64,
    /// The value of the `reason` header.
    pub reason: String,
    /// The key of the source record, or its first bytes if it is too long.
    pub key: Option<Vec<u8>>,
    /// The value of the source record, or its first bytes if it is too long. If the record is rejected only in part, or
    /// in several parts, the value contains the encoded events of this part.
    pub value: Vec<u8>,
}

impl Rejected {
    /// Returns the approximate number of bytes that the rejection adds to a transaction.
    pub fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, Vec::len);
        key + self.value.len() + REJECTION_OVERHEAD_BYTES
    }
}

/// The sink's buffer of rejections that are not written, by partition.
#[derive(Debug)]
pub struct Rejections {
    max_bytes: usize,
    waiting: BTreeMap<u32, Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// The rejections by the earliest final-until time of a commit that may contain them, so that a search for these
    /// rejections does not visit the other ones, which may be many more.
    records: BTreeMap<u64, Vec<Rejected>>,
    bytes: usize,
    /// The lowest committed offset that the next commit may have. It is after all rejections that were removed from the
    /// buffer.
    written_offset: u64,
}

/// Removes key and value from each record of `topic`, the topic of rejected records, that has at least `bytes` bytes:
/// the topic does not accept records of this size. Returns the number of shortened records.
pub fn shorten<'a>(
    records: impl IntoIterator<Item = &'a mut NewRecord>,
    topic: &str,
    bytes: usize,
) -> usize {
    let mut shortened = 0;
    for record in records {
        if record.topic == topic && record.bytes() >= bytes.max(1) {
            record.key = None;
            record.value = Bytes::new();
            // The topic may not accept the record because of its time, so the log sets another time.
            record.time_ms = None;
            shortened += 1;
        }
    }
    shortened
}

impl Rejections {
    /// Creates an empty buffer. `max_bytes` is the limit for each partition; see [`MAX_UNWRITTEN_BYTES`].
    pub fn new(max_bytes: usize) -> Rejections {
        Rejections {
            max_bytes,
            waiting: BTreeMap::new(),
        }
    }

    /// Adds the next rejection of its partition.
    pub fn push(&mut self, rejected: Rejected) {
        let waiting = self.waiting.entry(rejected.partition).or_default();
        waiting.bytes += rejected.bytes();
        let together = waiting.records.entry(rejected.settled_at_ms).or_default();
        together.push(rejected);
    }

    /// Whether the source has paused a partition because of its rejections, or soon will, and a commit with this
    /// final-until time may contain some of them.
    pub fn is_full(&self, final_until_ms: u64) -> bool {
        let full = |waiting: &Waiting| {
            let first = waiting.records.first_key_value();
            let settled = first.is_some_and(|(settled_at_ms, _)| *settled_at_ms <= final_until_ms);
            settled && waiting.bytes > self.max_bytes / 2
        };
        self.waiting.values().any(full)
    }

    /// Removes and returns the rejections of `partition` that a commit with this committed offset and this final-until
    /// time must contain.
    pub fn drain_before(
        &mut self,
        partition: u32,
        read_offset: u64,
        final_until_ms: u64,
    ) -> Vec<Rejected> {
        let waiting = self.waiting.entry(partition).or_default();
        waiting.drain(final_until_ms, |it| it.offset < read_offset)
    }

    /// Removes and returns all rejections that a commit with this final-until time may contain.
    pub fn drain_settled(&mut self, final_until_ms: u64) -> Vec<Rejected> {
        let waiting = self.waiting.values_mut();
        let taken = waiting.flat_map(|waiting| waiting.drain(final_until_ms, |_| true));
        taken.collect()
    }

    /// Returns the lowest committed offset that the next commit may have for `partition`. It is after all rejections
    /// that were removed from the buffer.
    pub fn written_offset(&self, partition: u32) -> u64 {
        let waiting = self.waiting.get(&partition);
        waiting.map_or(0, |waiting| waiting.written_offset)
    }
}

impl Waiting {
    fn drain(
        &mut self,
        final_until_ms: u64,
        is_included: impl Fn(&Rejected) -> bool,
    ) -> Vec<Rejected> {
        let settled = self.records.range_mut(..=final_until_ms);
        let taken = settled.flat_map(|(_, records)| records.extract_if(.., |it| is_included(it)));
        let mut taken: Vec<Rejected> = taken.collect();
        taken.sort_by_key(|it| it.offset);
        self.records.retain(|_, records| !records.is_empty());
        self.bytes -= taken.iter().map(Rejected::bytes).sum::<usize>();
        if let Some(last) = taken.last() {
            self.written_offset = self.written_offset.max(last.offset + 1);
        }
        taken
    }
}

/// The source's count of the bytes of a partition's rejections that were sent to the sink and are not durable.
#[derive(Debug)]
pub struct Unwritten {
    max_bytes: usize,
    bytes: usize,
    /// The bytes of the rejections whose windows the partition's own watermark has not passed, by the earliest
    /// final-until time of a commit that may contain them.
    not_passed: BTreeMap<u64, usize>,
}

impl Unwritten {
    /// Creates a count of 0 bytes with the limit `max_bytes`; see [`MAX_UNWRITTEN_BYTES`].
    pub fn new(max_bytes: usize) -> Unwritten {
        Unwritten {
            max_bytes,
            bytes: 0,
            not_passed: BTreeMap::new(),
        }
    }

    /// Notes that these rejections were sent.
    pub fn sent(&mut self, rejected: &[Rejected]) {
        for rejected in rejected {
            let not_passed = self.not_passed.entry(rejected.settled_at_ms).or_default();
            *not_passed += rejected.bytes();
            self.bytes += rejected.bytes();
        }
    }

    /// Notes that rejections of `bytes` bytes are durable.
    pub fn written(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether the partition must pause until some of its rejections are written. Windows that end by `passed_ms`
    /// become final without further records of the partition.
    pub fn is_full(&mut self, passed_ms: u64) -> bool {
        self.not_passed
            .retain(|settled_at_ms, _| *settled_at_ms > passed_ms);
        let not_passed: usize = self.not_passed.values().sum();
        self.bytes.saturating_sub(not_passed) > self.max_bytes
    }
}

#[cfg(test)]
mod tests {
    use emostream_log::Header;

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
        let mut rejections = Rejections::new(MAX_UNWRITTEN_BYTES);
        for (partition, offset, settled) in [(0, 3, 0), (0, 5, 20), (0, 6, 0), (1, 9, 10)] {
            rejections.push(rejected(partition, offset, settled, 0));
        }
        let taken = rejections.drain_settled(10);
        assert_eq!(offsets(taken), [(0, 3), (0, 6), (1, 9)]);
        let written = (rejections.written_offset(0), rejections.written_offset(1));
        assert_eq!(written, (7, 10));
        assert_eq!(offsets(rejections.drain_settled(19)), []);
        assert_eq!(offsets(rejections.drain_settled(20)), [(0, 5)]);
        assert_eq!(rejections.written_offset(0), 7);
    }

    #[test]
    fn a_commit_contains_the_settled_rejections_below_its_n() {
        let mut rejections = Rejections::new(MAX_UNWRITTEN_BYTES);
        for (offset, settled) in [(1, 0), (4, 30), (6, 20), (8, 0)] {
            rejections.push(rejected(2, offset, settled, 0));
        }
        assert_eq!(offsets(rejections.drain_before(2, 8, 20)), [(2, 1), (2, 6)]);
        assert_eq!(offsets(rejections.drain_before(2, 9, 30)), [(2, 4), (2, 8)]);
    }

    #[test]
    fn it_is_full_by_bytes_until_they_are_written() {
        let mut rejections = Rejections::new(MAX_UNWRITTEN_BYTES);
        rejections.push(rejected(0, 0, 10, MAX_UNWRITTEN_BYTES));
        assert!(!rejections.is_full(9), "none of them may be written yet");
        assert!(rejections.is_full(10));
        rejections.drain_settled(10);
        assert!(!rejections.is_full(10));
    }

    #[test]
    fn a_record_that_its_topic_does_not_accept_is_shortened_to_its_headers() {
        let record = |topic: &str, bytes| NewRecord {
            topic: topic.to_owned(),
            partition: None,
            time_ms: Some(5),
            key: Some("user".into()),
            value: vec![b'x'; bytes].into(),
            headers: vec![Header {
                name: "reason".to_owned(),
                value: "late".into(),
            }],
        };
        let before = [("rejected", 700), ("rejected", 10), ("windows", 700)];
        let mut records = before.map(|(topic, bytes)| record(topic, bytes));
        let least = records[0].bytes();
        assert_eq!(shorten(&mut records, "rejected", least), 1);
        let shortened = NewRecord {
            key: None,
            value: Bytes::new(),
            time_ms: None,
            ..record("rejected", 700)
        };
        assert_eq!(records[0], shortened);
        assert_eq!(
            records[1..],
            [record("rejected", 10), record("windows", 700)]
        );
    }

    /// If the partition were paused because of rejections of windows that its own watermark has not passed, it would
    /// wait for its own watermark, which does not advance during the pause.
    #[test]
    fn a_partition_does_not_wait_for_rejections_that_its_own_watermark_settles() {
        let mut unwritten = Unwritten::new(MAX_UNWRITTEN_BYTES);
        unwritten.sent(&[
            rejected(0, 0, 20, MAX_UNWRITTEN_BYTES),
            rejected(0, 1, 30, 100),
        ]);
        assert!(!unwritten.is_full(19));
        assert!(unwritten.is_full(20));
        unwritten.written(MAX_UNWRITTEN_BYTES);
        assert!(!unwritten.is_full(20));
        assert!(!unwritten.is_full(30));
    }
}
