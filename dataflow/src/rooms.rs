//! The rooms of a worker by number.
//!
//! Numbers are compared and sorted several times as fast as names. The sums of a room are stored under its number, so
//! when a room is removed, or its totals begin at 0, its number is retired: later finals of the room get another
//! number.
//!
//! ```text
//!  in use ──retire──▶ retired: results that were computed before still find the room's name ──free_retired──▶ free
//! ```
//!
//! Invariant: a number is free only if its sums are 0, and all results of its sums are committed.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use emostream_model::Room;
use foldhash::HashMap;

/// A room's number on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomNumber(pub u32);

impl RoomNumber {
    /// The number, as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The rooms of this worker by number. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Rooms(Rc<RefCell<Numbers>>);

#[derive(Debug, Default)]
struct Numbers {
    rooms: Vec<Room>,
    numbers: HashMap<Room, RoomNumber>,
    /// The time at which each retired number was retired.
    retired: HashMap<RoomNumber, u64>,
    /// Retired numbers whose sums are 0, and the time from which on they are, in the order of these times.
    empty: VecDeque<(u64, RoomNumber)>,
    free: Vec<RoomNumber>,
}

impl Rooms {
    /// The room's number; a room without one gets one.
    pub fn number(&self, room: &Room) -> RoomNumber {
        let numbers = &mut *self.0.borrow_mut();
        if let Some(number) = numbers.numbers.get(room) {
            return *number;
        }
        let number = match numbers.free.pop() {
            Some(number) => {
                numbers.rooms[number.index()] = room.clone();
                number
            }
            None => {
                numbers.rooms.push(room.clone());
                RoomNumber(numbers.rooms.len() as u32 - 1)
            }
        };
        numbers.numbers.insert(room.clone(), number);
        number
    }

    /// The room of a number; of a retired one the room that it had.
    pub fn room(&self, number: RoomNumber) -> Room {
        self.0.borrow().rooms[number.index()].clone()
    }

    /// Retires the number at `time_ms`. If its room is used again, the room gets another number.
    pub fn retire(&self, number: RoomNumber, time_ms: u64) {
        let numbers = &mut *self.0.borrow_mut();
        let room = &numbers.rooms[number.index()];
        if numbers.numbers.get(room) == Some(&number) {
            numbers.numbers.remove(room);
        }
        numbers.retired.insert(number, time_ms);
    }

    /// Takes the number from its room and frees it: nothing that it stands for is in the dataflow any more.
    pub fn free(&self, number: RoomNumber) {
        let numbers = &mut *self.0.borrow_mut();
        numbers.numbers.remove(&numbers.rooms[number.index()]);
        numbers.free.push(number);
    }

    /// When the number was retired: changes of its sums from then on belong to no room.
    pub fn retired_at(&self, number: RoomNumber) -> Option<u64> {
        self.0.borrow().retired.get(&number).copied()
    }

    /// Records that the sums of a retired number are 0 from `time_ms` on: the number can be freed once that is
    /// committed. Times never decrease.
    pub fn mark_empty(&self, number: RoomNumber, time_ms: u64) {
        self.0.borrow_mut().empty.push_back((time_ms, number));
    }

    /// Frees the retired numbers whose sums became 0 before `durable_until_ms`. Returns them.
    pub fn free_retired(&self, durable_until_ms: u64) -> Vec<RoomNumber> {
        let numbers = &mut *self.0.borrow_mut();
        let empty = &mut numbers.empty;
        let end = empty.partition_point(|(time_ms, _)| *time_ms < durable_until_ms);
        let freed = empty.drain(..end).map(|(_, number)| number);
        let freed: Vec<RoomNumber> = freed.collect();
        for number in &freed {
            numbers.retired.remove(number);
        }
        numbers.free.extend(&freed);
        freed
    }
}
