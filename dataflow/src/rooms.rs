//! The rooms of a worker by number.
//!
//! Numbers are compared and sorted several times as fast as names. The sums of a room are kept by its number, so when a
//! room is removed, or its totals begin at 0, its number is retired: later finals of the room get another number.
//!
//! ```text
//!  in use ──retire──▶ retired: what was computed before still finds the room's name ──reuse──▶ free
//! ```
//!
//! Invariant: a number is free only when what its sums produced is durable, and they are 0.

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
    /// The time at which each retired number ended.
    ended: HashMap<RoomNumber, u64>,
    /// Retired numbers whose sums are 0 from some time on, in the order of these times.
    emptied: VecDeque<(u64, RoomNumber)>,
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

    /// Takes the number from its room at `time_ms`; the room gets another one when it is needed.
    pub fn retire(&self, number: RoomNumber, time_ms: u64) {
        let numbers = &mut *self.0.borrow_mut();
        let room = &numbers.rooms[number.index()];
        if numbers.numbers.get(room) == Some(&number) {
            numbers.numbers.remove(room);
        }
        numbers.ended.insert(number, time_ms);
    }

    /// Whether a retired number had ended by `time_ms`: changes of its sums from then on are not those of a room.
    pub fn has_ended(&self, number: RoomNumber, time_ms: u64) -> bool {
        let ended = &self.0.borrow().ended;
        ended.get(&number).is_some_and(|at_ms| *at_ms <= time_ms)
    }

    /// The sums of a retired number are 0 from `time_ms` on: it can be used again once that is durable. Times never
    /// decrease.
    pub fn emptied(&self, number: RoomNumber, time_ms: u64) {
        self.0.borrow_mut().emptied.push_back((time_ms, number));
    }

    /// Frees the retired numbers whose sums became 0 before `durable_until_ms`. Returns them.
    pub fn reuse(&self, durable_until_ms: u64) -> Vec<RoomNumber> {
        let numbers = &mut *self.0.borrow_mut();
        let emptied = &mut numbers.emptied;
        let end = emptied.partition_point(|(time_ms, _)| *time_ms < durable_until_ms);
        let freed = emptied.drain(..end).map(|(_, number)| number);
        let freed: Vec<RoomNumber> = freed.collect();
        for number in &freed {
            numbers.ended.remove(number);
        }
        numbers.free.extend(&freed);
        freed
    }
}
