//! News of the results, as it travels down the tree.

use bincode::{BorrowDecode, Encode};

use super::{RELAY_VERSION, ReadRange, append, set_length};
use crate::{Count, LeadersRecord, ResultId, Room, TrendingRecord, Window, WindowRecord, known};

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Update {
    /// A window has closed.
    Final {
        /// Its place in the log.
        id: ResultId,
        /// When it was written there, Unix milliseconds.
        written_ms: u64,
        /// The tally.
        record: WindowRecord,
    },
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
    /// All that was ever counted, as of the newest final.
    pub totals: Vec<Count>,
    /// The newest tally of each open window, in the order of their coming.
    pub live: Vec<String>,
    /// What is trending, or that nothing is any more.
    pub trending: Option<TrendingNow>,
}

known::decoded!(RoomSnapshot: room, floor, newest, finals; totals; live, trending);

/// What is trending in a room.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct TrendingNow {
    /// The start of the last window of its span.
    pub start_ms: u64,
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
