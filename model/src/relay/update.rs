//! News of the results, as it travels down the tree.

use bincode::{BorrowDecode, Encode};

use super::{RELAY_VERSION, ReadRange, append, set_length};
use crate::{
    Count, LeadersRecord, ResultId, ResultOrder, Room, TrendingRecord, Window, WindowRecord, known,
};

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Update {
    /// A window has closed.
    Final(Final),
    /// The running tally of an open window.
    Live(WindowRecord),
    /// What is trending in a room.
    Trending(TrendingRecord),
    /// What leads across rooms.
    Leaders(LeadersRecord),
    /// A room as it stands. Taken whole or not at all, since its totals are as of its newest final.
    Room(RoomSnapshot),
    /// Every final of a partition before `end` has been told; what lies before `start` never will be.
    Read(ReadRange),
    /// The dataflow has removed a room that had no final for longer than the retention of totals: unless the room has
    /// a final of `before` or later, its totals are 0 and nothing in it is trending.
    Removed {
        /// Which room.
        room: Room,
        /// Finals before this order are removed. Those of this order or a later one count from 0.
        before: ResultOrder,
    },
}

/// The final of a window.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Final {
    /// Its place in the log.
    pub id: ResultId,
    /// When it was written there, Unix milliseconds.
    pub written_ms: u64,
    /// The number of backward resets before it.
    pub resets: u64,
    /// Whether the totals of its room begin at 0 with it: counts of earlier finals are dropped.
    pub begins: bool,
    /// The tally.
    pub record: WindowRecord,
}

impl Final {
    /// Its place among the results of its room.
    pub fn order(&self) -> ResultOrder {
        ResultOrder::new(self.resets, self.record.window)
    }
}

/// A room as it stands. Frames travel as the JSON that subscribers get.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
pub struct RoomSnapshot {
    /// Which room.
    pub room: Room,
    /// Finals at or below this are not kept, and may have been.
    pub floor: Option<ResultId>,
    /// The newest final, and its window, if any is kept.
    pub newest: Option<(ResultId, Window)>,
    /// The kept finals that the relay does not have, oldest first.
    pub finals: Vec<String>,
    /// Each final of this order or an earlier one is in the totals, or was removed from them. `None`: no final was
    /// counted.
    pub totals_as_of: Option<ResultOrder>,
    /// The counts since the totals last began at 0, as of the newest final.
    pub totals: Vec<Count>,
    /// The newest tally of each open window, in the order of their coming.
    pub live: Vec<String>,
    /// What is trending, or that nothing is any more.
    pub trending: Option<TrendingNow>,
}

known::decoded!(RoomSnapshot: room, floor, newest, finals, totals_as_of; totals; live, trending);

/// What is trending in a room.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct TrendingNow {
    /// The order of the last window of its span.
    pub order: ResultOrder,
    /// The frame.
    pub frame: String,
}

/// Updates on their way into one message: [`super::Down::Updates`], made piece by piece.
///
/// ```
/// # use emostream_model::{ReadRange, RelayBatch, RelayDown, RelayUpdate};
/// let update = RelayUpdate::Read(ReadRange { partition: 3, start: 0, end: 7 });
/// let mut batch = RelayBatch::default();
/// batch.push(5, &update);
/// let whole = RelayDown::Updates { born_us: 5, updates: vec![update] };
/// assert_eq!(batch.take(), Some(whole.frame()));
/// ```
#[derive(Debug, Default)]
pub struct Batch {
    born_us: u64,
    count: u64,
    body: Vec<u8>,
}

/// How bincode numbers [`super::Down::Updates`] among its siblings.
const UPDATES: u32 = 3;

impl Batch {
    /// Adds an update that the publisher read at `born_us`, Unix microseconds.
    pub fn push(&mut self, born_us: u64, update: &Update) {
        self.born_us = match self.count {
            0 => born_us,
            _ => self.born_us.min(born_us),
        };
        self.count += 1;
        append(update, &mut self.body);
    }

    /// How many bytes of updates it holds.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The message behind its length, as it goes out; the batch is empty again. `None` for none.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let mut frame = Vec::with_capacity(self.body.len() + 32);
        frame.extend([0, 0, 0, 0, RELAY_VERSION]);
        append(&(UPDATES, self.born_us, self.count), &mut frame);
        frame.append(&mut self.body);
        set_length(&mut frame);
        *self = Self::default();
        Some(frame)
    }
}
