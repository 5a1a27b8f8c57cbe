//! Merges the records of all partitions of a topic in the order of their times.

use std::collections::VecDeque;

use emostream_log::{Header, Log, LogError, Reader, Record, Wake};

/// Maximum number of buffered records of a partition. They wait until no other partition can have an older record.
const MAX_BUFFERED: usize = 256;

/// A copy of a record, which owns its bytes.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) time_ms: u64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Vec<u8>,
    pub(super) headers: Vec<Header>,
}

impl Owned {
    fn of(record: Record<'_>) -> Self {
        Self {
            partition: record.partition,
            offset: record.offset,
            time_ms: record.time_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.to_vec(),
            headers: record.headers.read(),
        }
    }
}

/// A partition with its buffered records.
struct Lane {
    partition: u32,
    waiting: VecDeque<Owned>,
    /// The offset at which reading of the partition ends; `None` if the reader continues with new records.
    end: Option<u64>,
}

/// A reader of a topic that merges its partitions.
pub(super) struct Merge {
    reader: Box<dyn Reader>,
    lanes: Vec<Lane>,
}

impl Merge {
    /// Opens a reader of `ranges`. Each has a partition, the first offset to read, and the offset at which reading
    /// ends.
    pub(super) fn open(
        log: &dyn Log,
        topic: &str,
        ranges: &[(u32, u64, u64)],
        wake: Wake,
    ) -> Result<Self, LogError> {
        let from: Vec<_> = ranges
            .iter()
            .map(|(partition, first, _)| (*partition, *first))
            .collect();
        let lane = |&(partition, _, end): &(u32, u64, u64)| Lane {
            partition,
            waiting: VecDeque::new(),
            end: Some(end),
        };
        Ok(Self {
            reader: log.scanner(topic, &from, wake)?,
            lanes: ranges.iter().map(lane).collect(),
        })
    }

    /// Removes the end offsets, so that the reader continues with new records.
    pub(super) fn follow(&mut self) {
        for lane in &mut self.lanes {
            lane.end = None;
        }
    }

    /// Whether all records before the end offsets of all partitions were returned.
    pub(super) fn caught_up(&self) -> bool {
        self.lanes
            .iter()
            .all(|lane| lane.waiting.is_empty() && self.ended(lane))
    }

    fn ended(&self, lane: &Lane) -> bool {
        // We compare the position of the reader and not the offset of the last record, because the last offsets may be
        // transaction markers, which a reader never returns.
        let reached = |end| self.reader.position(lane.partition) >= end;
        lane.end.is_some_and(reached) || self.reader.at_end(lane.partition)
    }

    /// Returns the next records in the order of their times. A record is returned only once the next record of every
    /// other partition is known, since one of those records may be older.
    pub(super) fn next(&mut self) -> Result<Vec<Owned>, LogError> {
        for lane in &mut self.lanes {
            let capacity = MAX_BUFFERED - lane.waiting.len();
            let done = lane
                .end
                .is_some_and(|end| self.reader.position(lane.partition) >= end);
            if capacity > 0 && !done {
                let (waiting, end) = (&mut lane.waiting, lane.end);
                self.reader.poll(lane.partition, capacity, &mut |record| {
                    if end.is_none_or(|end| record.offset < end) {
                        waiting.push_back(Owned::of(record));
                    }
                })?;
            }
        }
        let mut merged = Vec::new();
        while let Some(lane) = self.first() {
            merged.extend(self.lanes[lane].waiting.pop_front());
        }
        Ok(merged)
    }

    /// Returns the index of the partition whose next record is the oldest. Returns `None` if a partition has no
    /// buffered record, since it may still get an older record.
    fn first(&self) -> Option<usize> {
        let open = |lane: &Lane| lane.waiting.is_empty() && !self.ended(lane);
        if self.lanes.iter().any(open) {
            return None;
        }
        let next = |at: usize| Some((self.lanes[at].waiting.front()?.time_ms, at));
        (0..self.lanes.len())
            .filter_map(next)
            .min()
            .map(|(_, at)| at)
    }
}
