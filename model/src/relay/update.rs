//! Updates of the results, which each node of a tree of relays sends to the relays below it.

use bincode::{BorrowDecode, Encode};

use super::{RELAY_VERSION, ReadRange, append, set_length};
use crate::{
    Count, LeadersRecord, ResultId, ResultOrder, Room, TrendingRecord, Window, WindowRecord, known,
};

/// A change of the results.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Update {
    /// The tally of a window that has closed.
    Final(Final),
    /// The tally of an open window.
    Live(WindowRecord),
    /// The top emojis of a room in the sliding span.
    Trending(TrendingRecord),
    /// The leaders across rooms.
    Leaders(LeadersRecord),
    /// The state of a room. The receiver applies the whole state at once, since the totals include all final results up
    /// to the newest one.
    Room(RoomSnapshot),
    /// All final results of a partition from offset `start` up to offset `end` were sent. Final results before `start`
    /// are not sent.
    Read(ReadRange),
    /// The dataflow has removed a room, since the room had no final result for longer than the retention of totals. If
    /// the room has no final result at the position `before` or a later one, its totals are now 0 and nothing is
    /// trending in it.
    Removed {
        /// The room.
        room: Room,
        /// Final results before this position are removed from the totals. Final results at this position or later are
        /// counted from 0.
        before: ResultOrder,
    },
}

/// The final result of a window.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Final {
    /// The final result's position in the log.
    pub id: ResultId,
    /// The record's timestamp, Unix milliseconds.
    pub written_ms: u64,
    /// Number of backward resets before this final result.
    pub resets: u64,
    /// Whether the totals of the room begin at 0 with this final result. If so, the counts of earlier final results are
    /// dropped.
    pub begins: bool,
    /// The tally.
    pub record: WindowRecord,
}

impl Final {
    /// Returns the position of the final result among the results of the room.
    pub fn order(&self) -> ResultOrder {
        ResultOrder::new(self.resets, self.record.window)
    }
}

/// The state of a room. Frames in it are the JSON texts that subscribers receive.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub struct RoomSnapshot {
    /// The room.
    pub room: Room,
    /// The newest final result that is not in the ring any more. All final results before it are not in the ring
    /// either.
    pub evicted_through: Option<ResultId>,
    /// The newest final result in the ring, and its window.
    pub newest: Option<(ResultId, Window)>,
    /// The final results in the ring that the relay does not have, oldest first.
    pub finals: Vec<String>,
    /// The position up to which the totals are complete: each final result at this position or an earlier one was added
    /// to the totals, or was removed from them. `None` if no final result was counted.
    pub totals_as_of: Option<ResultOrder>,
    /// The counts since the totals last began at 0, as of the newest final result.
    pub totals: Vec<Count>,
    /// The newest tally of each open window, in the order of the windows.
    pub live: Vec<String>,
    /// The newest trending frame; its list is empty if nothing is trending any more.
    pub trending: Option<TrendingNow>,
}

known::decoded!(RoomSnapshot: room, evicted_through, newest, finals, totals_as_of; totals; live, trending);

/// A trending frame, and its position among the results.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct TrendingNow {
    /// The position of the last window of the span.
    pub order: ResultOrder,
    /// The frame's JSON.
    pub frame: String,
}

/// Builds a [`super::Down::Updates`] message: each update is encoded when it is added.
///
/// ```
/// # use emostream_model::{ReadRange, RelayBatch, RelayDown, RelayUpdate};
/// let update = RelayUpdate::Read(ReadRange { partition: 3, start: 0, end: 7 });
/// let mut batch = RelayBatch::default();
/// batch.push(5, &update);
/// let whole = RelayDown::Updates { origin_us: 5, updates: vec![update] };
/// assert_eq!(batch.take(), Some(whole.frame()));
/// ```
#[derive(Debug, Default)]
pub struct Batch {
    origin_us: u64,
    count: u64,
    body: Vec<u8>,
}

/// Index of the variant [`super::Down::Updates`] in bincode.
const UPDATES: u32 = 3;

impl Batch {
    /// Adds an update that the publisher read at `origin_us`, Unix microseconds.
    pub fn push(&mut self, origin_us: u64, update: &Update) {
        self.origin_us = match self.count {
            0 => origin_us,
            _ => self.origin_us.min(origin_us),
        };
        self.count += 1;
        append(update, &mut self.body);
    }

    /// Returns the length of the encoded updates, in bytes.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Returns whether the batch has no updates.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Removes the updates and returns a message with them, preceded by its length. Returns `None` if there are no
    /// updates.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let mut frame = Vec::with_capacity(self.body.len() + 32);
        frame.extend([0, 0, 0, 0, RELAY_VERSION]);
        append(&(UPDATES, self.origin_us, self.count), &mut frame);
        frame.append(&mut self.body);
        set_length(&mut frame);
        *self = Self::default();
        Some(frame)
    }
}
