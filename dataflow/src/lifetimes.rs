//! When the totals of a room begin, and when a room is removed.
//!
//! ```text
//!  finals of a room   ──c───c──────────────────── retention ───────────────|──── c
//!                           └ its last final                               │     └ begins at 0
//!                                                                          └ removed with the close of a later window
//! ```
//!
//! A final begins its room's totals at 0 if the room has no final before it, or if the last one before it is in a window
//! that began more than the retention before its own. The rule does not depend on whether the room was removed in the
//! meantime. So removals, of which each close makes a limited number, change no result. Times are the starts of
//! windows.
//!
//! Without IO. The cost of a check does not depend on the number of rooms: a room is queued at the time at which it
//! expires if it has no further final. When that time comes, a room that has had further finals is queued again.

use std::collections::BTreeMap;

use crate::rooms::RoomNumber;

/// Whether more than the retention lies between a room's last final, in the window that begins at `last_ms`, and
/// `start_ms`: the totals begin at 0 with a final of the window that begins then.
pub fn exceeds_retention(last_ms: u64, start_ms: u64, retention_ms: u64) -> bool {
    last_ms.saturating_add(retention_ms) < start_ms
}

/// The time of the last final of each room of a worker.
pub struct Lifetimes {
    /// Time without a final after which totals begin at 0.
    retention_ms: u64,
    /// Time without a final after which a room is removed: at least `retention_ms`.
    kept_ms: u64,
    /// By [`RoomNumber::index`]; `None` for numbers that are not in use.
    rooms: Vec<Option<Lifetime>>,
    /// The rooms by the time at which they may expire.
    queue: BTreeMap<u64, Vec<RoomNumber>>,
}

#[derive(Debug, Clone, Copy)]
struct Lifetime {
    last_ms: u64,
    /// The time at which the room is queued. An entry of its number at another time belongs to a room that had the
    /// number before.
    queued_ms: u64,
}

impl Lifetimes {
    /// Without rooms. A room is not removed within `span_ms`, the trending span, after its last final, even if the
    /// retention is shorter: the room may still be trending.
    pub fn new(retention_ms: u64, span_ms: u64) -> Lifetimes {
        Lifetimes {
            retention_ms,
            kept_ms: retention_ms.max(span_ms),
            rooms: Vec::new(),
            queue: BTreeMap::new(),
        }
    }

    /// The start of the window of a room's last final, if the room is known.
    fn last_ms(&self, room: RoomNumber) -> Option<u64> {
        let lifetime = self.rooms.get(room.index())?.as_ref();
        lifetime.map(|lifetime| lifetime.last_ms)
    }

    /// Whether the totals of a room begin at 0 with a final of the window that begins at `start_ms`.
    pub fn begins(&self, room: RoomNumber, start_ms: u64) -> bool {
        let last_ms = self.last_ms(room);
        last_ms.is_none_or(|last_ms| exceeds_retention(last_ms, start_ms, self.retention_ms))
    }

    /// Records the next final of a room, which is in the window that begins at `start_ms`.
    pub fn extend(&mut self, room: RoomNumber, start_ms: u64) {
        if self.rooms.len() <= room.index() {
            self.rooms.resize(room.index() + 1, None);
        }
        let expires_ms = start_ms.saturating_add(self.kept_ms);
        match &mut self.rooms[room.index()] {
            Some(known) => {
                known.last_ms = start_ms;
                if expires_ms < known.queued_ms {
                    // After a backward reset: the room may be queued at a time that lies years ahead.
                    known.queued_ms = expires_ms;
                    self.queue.entry(expires_ms).or_default().push(room);
                }
            }
            new => {
                *new = Some(Lifetime {
                    last_ms: start_ms,
                    queued_ms: expires_ms,
                });
                self.queue.entry(expires_ms).or_default().push(room);
            }
        }
    }

    /// Drops a room, whose number is about to be retired. Returns whether it was known.
    pub fn forget(&mut self, room: RoomNumber) -> bool {
        let lifetime = self.rooms.get_mut(room.index());
        lifetime.is_some_and(|lifetime| lifetime.take().is_some())
    }

    /// Drops up to `max_rooms` rooms that have expired and returns them: they have no final in the window that begins
    /// at `start_ms`, and their totals begin at 0 with any later final. Checks no more than `max_checks` rooms.
    pub fn expire(
        &mut self,
        start_ms: u64,
        max_rooms: usize,
        max_checks: usize,
    ) -> Vec<RoomNumber> {
        let mut expired = Vec::new();
        for _ in 0..max_checks {
            let first = self.queue.first_entry();
            let Some(mut first) =
                first.filter(|it| expired.len() < max_rooms && *it.key() < start_ms)
            else {
                break;
            };
            let queued_ms = *first.key();
            let room = first.get_mut().pop();
            if first.get().is_empty() {
                first.remove();
            }
            let known = room.and_then(|room| Some((room, self.rooms[room.index()].as_mut()?)));
            let Some((room, known)) = known.filter(|(_, it)| it.queued_ms == queued_ms) else {
                continue;
            };
            let expires_ms = known.last_ms.saturating_add(self.kept_ms);
            if expires_ms < start_ms {
                self.rooms[room.index()] = None;
                expired.push(room);
            } else {
                known.queued_ms = expires_ms;
                self.queue.entry(expires_ms).or_default().push(room);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const RETENTION_MS: u64 = 10;

    proptest! {
        /// The oracle keeps the last final of each room, and checks all rooms at every window.
        #[test]
        fn rooms_expire_once_their_next_final_would_begin_at_0(
            finals in vec((0_u64..6, 0_u32..5), 0..60), max_rooms in 1_usize..3, max_checks in 1_usize..4, span_ms in 0_u64..20,
        ) {
            let mut lifetimes = Lifetimes::new(RETENTION_MS, span_ms);
            let kept_ms = RETENTION_MS.max(span_ms);
            let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
            let mut start_ms = 0;
            let mut windows: Vec<(u64, Option<u32>)> = Vec::new();
            for (pause, room) in finals {
                windows.extend((0..pause).map(|nth| (start_ms + nth, None)));
                start_ms += pause;
                windows.push((start_ms, Some(room)));
            }
            // Long enough for each room to be checked again.
            windows.extend((1..200).map(|nth| (start_ms + nth, None)));
            for (start_ms, room) in windows {
                if let Some(room) = room {
                    let number = RoomNumber(room);
                    prop_assert_eq!(lifetimes.last_ms(number), oracle.get(&room).copied());
                    lifetimes.extend(number, start_ms);
                    oracle.insert(room, start_ms);
                }
                let expired = lifetimes.expire(start_ms, max_rooms, max_checks);
                prop_assert!(expired.len() <= max_rooms);
                for number in expired {
                    let last_ms = oracle.remove(&number.0);
                    prop_assert!(last_ms.is_some_and(|it| it + kept_ms < start_ms), "{number:?}");
                }
            }
            prop_assert!(oracle.is_empty() && lifetimes.queue.is_empty());
        }
    }

    #[test]
    fn a_final_continues_the_totals_up_to_the_retention_and_not_beyond() {
        let begin = [15, 16, 4].map(|start_ms| exceeds_retention(5, start_ms, RETENTION_MS));
        // The third window is earlier than the final: it follows a backward reset.
        assert_eq!(begin, [false, true, false]);
        assert!(!exceeds_retention(1, u64::MAX, u64::MAX));
        assert!(
            Lifetimes::new(u64::MAX, 0).begins(RoomNumber(0), 0),
            "a new room"
        );
    }

    #[test]
    fn a_number_that_another_room_got_expires_with_that_room() {
        let mut lifetimes = Lifetimes::new(RETENTION_MS, 0);
        let number = RoomNumber(3);
        lifetimes.extend(number, 0);
        assert!(lifetimes.forget(number) && !lifetimes.forget(number));
        lifetimes.extend(number, 8);
        assert_eq!(lifetimes.expire(18, 9, 9), []);
        assert_eq!(lifetimes.expire(19, 9, 9), [number]);
    }

    #[test]
    fn after_a_backward_reset_a_room_expires_by_its_new_time() {
        let mut lifetimes = Lifetimes::new(RETENTION_MS, 0);
        let room = RoomNumber(0);
        lifetimes.extend(room, 1_000_000);
        lifetimes.extend(room, 5);
        assert_eq!(lifetimes.expire(15, 9, 9), []);
        assert_eq!(lifetimes.expire(16, 9, 9), [room]);
        assert_eq!(lifetimes.expire(2_000_000, 9, 9), []);
    }
}
