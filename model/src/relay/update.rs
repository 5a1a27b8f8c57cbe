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
    /// The state of a room. It is applied as a whole, since its totals are as of its newest final.
    Room(RoomSnapshot),
    /// All finals of a partition from `start` to `end` were sent; earlier ones are not sent.
    Read(ReadRange),
    /// The dataflow has removed a room that had no final for longer than the retention of totals: unless the room has
    /// a final of `before` or later, its totals are 0 and nothing in it is trending.
    Removed {
        /// The room.
        room: Room,
        /// Finals before this order are removed. Those of this order or a later one count from 0.
        before: ResultOrder,
    },
}

/// The final of a window.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Final {
    /// The position in the log.
    pub id: ResultId,
    /// The record's timestamp, Unix milliseconds.
    pub written_ms: u64,
    /// Number of backward resets before this final.
    pub resets: u64,
    /// Whether the totals of the room begin at 0 with this final: counts of earlier finals are dropped.
    pub begins: bool,
    /// The tally.
    pub record: WindowRecord,
}

impl Final {
    /// The position among the results of the room.
    pub fn order(&self) -> ResultOrder {
        ResultOrder::new(self.resets, self.record.window)
    }
}

/// The state of a room. Its frames are the JSON texts that subscribers receive.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub struct RoomSnapshot {
    /// The room.
    pub room: Room,
    /// Finals up to this one are not in the ring any more.
    pub evicted_through: Option<ResultId>,
    /// The newest final in the ring, and its window.
    pub newest: Option<(ResultId, Window)>,
    /// The finals in the ring that the relay does not have, oldest first.
    pub finals: Vec<String>,
    /// Each final of this order or an earlier one is in the totals, or was removed from them. `None`: no final was
    /// counted.
    pub totals_as_of: Option<ResultOrder>,
    /// The counts since the totals last began at 0, as of the newest final.
    pub totals: Vec<Count>,
    /// The newest tally of each open window, in the order of the windows.
    pub live: Vec<String>,
    /// The newest trending frame; its list is empty if nothing is trending any more.
    pub trending: Option<TrendingNow>,
}

known::decoded!(RoomSnapshot: room, evicted_through, newest, finals, totals_as_of; totals; live, trending);

/// A trending frame and its order.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct TrendingNow {
    /// The order of the last window of the span.
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

    /// Bytes of the encoded updates.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether the batch has no updates.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Removes the updates and returns their message, with its length before it; `None` if there are none.
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
