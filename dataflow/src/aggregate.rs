//! Counts reactions where they are read, so that tallies instead of reactions travel on.
//!
//! Fused into the source this makes timely count several times faster than exchanging every
//! reaction (DESIGN: 327 against 151 M events/s).

use std::{collections::BTreeMap, mem};

use emostream_model::{Emoji, Room, Window};
use foldhash::{HashMap, HashMapExt};

/// More rooms than this are forgotten at the next drain: the table holds what a burst needs.
const INTERNED_ROOMS: usize = 100_000;

/// A room's number in this table until the next [`Aggregate::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoomNumber(u32);

/// The counts of one window, by room and emoji.
pub type Counts = HashMap<(RoomNumber, Emoji), u64>;

/// Counts that were read and not yet sent on.
#[derive(Debug, Default)]
pub struct Aggregate {
    /// By the last instant of the window.
    windows: BTreeMap<u64, Counts>,
    rooms: Vec<Room>,
    numbers: HashMap<Room, RoomNumber>,
}

impl Aggregate {
    /// The number of a room by its name in a record, which must be valid.
    pub fn room(&mut self, name: &str) -> Option<RoomNumber> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let room = Room::from_record(name).ok()?;
        let number = RoomNumber(u32::try_from(self.rooms.len()).ok()?);
        self.rooms.push(room.clone());
        self.numbers.insert(room, number);
        Some(number)
    }

    /// The counts of a window.
    pub fn window(&mut self, window: Window) -> &mut Counts {
        self.windows.entry(window.last_ms()).or_default()
    }

    /// Hands out every window's last instant and its counts, the earliest window first, and begins anew.
    pub fn drain(
        &mut self,
        mut each: impl FnMut(u64, &mut dyn Iterator<Item = (Room, Emoji, u64)>),
    ) {
        for (time_ms, counts) in mem::take(&mut self.windows) {
            let room = |number: RoomNumber| self.rooms[number.0 as usize].clone();
            let mut tallies = counts
                .into_iter()
                .map(|((number, emoji), count)| (room(number), emoji, count));
            each(time_ms, &mut tallies);
        }
        if self.rooms.len() > INTERNED_ROOMS {
            self.rooms.clear();
            self.numbers = HashMap::new();
        }
    }
}
