//! When the totals of a room begin, and when a room is removed.
//!
//! ```text
//!  finals of a room   ──c───c──────────────────── retention ───────────────|──── c
//!                           └ its last final                               │     └ begins at 0
//!                                                                          └ removed with the close of a later window
//! ```
//!
//! A final begins its room's totals at 0 if the room has no final before it, or if the last one before it is in a window
//! that began more than the retention before its own. That holds whether the room was removed meanwhile or not, so
//! removing it, which is done in portions, changes no result. Times are the starts of windows.
//!
//! Pure. Looking at a room costs the same however many there are: each waits in the queue at the time at which it
//! would have expired when it was queued, and is queued again if it had finals since.

use std::collections::BTreeMap;

use crate::rooms::RoomNumber;

/// Whether the totals of a room begin at 0 with a final of the window that begins at `start_ms`, after one of `last_ms`.
pub fn begins(last_ms: u64, start_ms: u64, retention_ms: u64) -> bool {
    last_ms.saturating_add(retention_ms) < start_ms
}

/// When each room of a worker had its last final.
pub struct Lifetimes {
    /// After how long without a final totals begin at 0.
    retention_ms: u64,
    /// After how long a room is removed: no sooner than that.
    kept_ms: u64,
    /// By [`RoomNumber::index`]; `None` for numbers that are not in use.
    rooms: Vec<Option<Lifetime>>,
    /// The rooms by the time at which they may expire.
    queue: BTreeMap<u64, Vec<RoomNumber>>,
}

#[derive(Debug, Clone, Copy)]
struct Lifetime {
    last_ms: u64,
    /// Where in the queue the room is. An entry elsewhere is that of a room that had the number before.
    queued_ms: u64,
}

impl Lifetimes {
    /// No room. Rooms are kept for `shown_ms` if that is longer than the retention: something else of them is shown as
    /// long.
    pub fn new(retention_ms: u64, shown_ms: u64) -> Lifetimes {
        Lifetimes {
            retention_ms,
            kept_ms: retention_ms.max(shown_ms),
            rooms: Vec::new(),
            queue: BTreeMap::new(),
        }
    }

    /// The last final of a room, if the room is known.
    fn last_ms(&self, room: RoomNumber) -> Option<u64> {
        let lifetime = self.rooms.get(room.index())?.as_ref();
        lifetime.map(|lifetime| lifetime.last_ms)
    }

    /// Whether the totals of a room begin at 0 with a final of the window that begins at `start_ms`.
    pub fn begins(&self, room: RoomNumber, start_ms: u64) -> bool {
        let last_ms = self.last_ms(room);
        last_ms.is_none_or(|last_ms| begins(last_ms, start_ms, self.retention_ms))
    }

    /// A room has a final in the window that begins at `start_ms`, later than those before.
    pub fn extend(&mut self, room: RoomNumber, start_ms: u64) {
        if self.rooms.len() <= room.index() {
            self.rooms.resize(room.index() + 1, None);
        }
        let expires_ms = start_ms.saturating_add(self.kept_ms);
        match &mut self.rooms[room.index()] {
            // After a backward reset it expires sooner than it is queued, which may happen late.
            Some(known) => known.last_ms = start_ms,
            new => {
                *new = Some(Lifetime {
                    last_ms: start_ms,
                    queued_ms: expires_ms,
                });
                self.queue.entry(expires_ms).or_default().push(room);
            }
        }
    }

    /// Forgets a room, whose number is about to be retired. Returns whether it was known.
    pub fn forget(&mut self, room: RoomNumber) -> bool {
        let lifetime = self.rooms.get_mut(room.index());
        lifetime.is_some_and(|lifetime| lifetime.take().is_some())
    }

    /// Takes out up to `most` rooms whose totals begin at 0 with any final that is later than the window that begins at
    /// `start_ms`, and which have none in it. Looks at no more than `looks` rooms.
    pub fn expire(&mut self, start_ms: u64, most: usize, looks: usize) -> Vec<RoomNumber> {
        let mut expired = Vec::new();
        for _ in 0..looks {
            let first = self.queue.first_entry();
            let Some(mut first) = first.filter(|it| expired.len() < most && *it.key() < start_ms)
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
        /// The oracle keeps the last final of each room, and looks at all rooms at every window.
        #[test]
        fn rooms_expire_once_their_next_final_would_begin_at_0(
            finals in vec((0_u64..6, 0_u32..5), 0..60), most in 1_usize..3, looks in 1_usize..4, shown_ms in 0_u64..20,
        ) {
            let mut lifetimes = Lifetimes::new(RETENTION_MS, shown_ms);
            let kept_ms = RETENTION_MS.max(shown_ms);
            let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
            let mut start_ms = 0;
            let mut windows: Vec<(u64, Option<u32>)> = Vec::new();
            for (pause, room) in finals {
                windows.extend((0..pause).map(|nth| (start_ms + nth, None)));
                start_ms += pause;
                windows.push((start_ms, Some(room)));
            }
            // Long enough for each to be looked at again.
            windows.extend((1..200).map(|nth| (start_ms + nth, None)));
            for (start_ms, room) in windows {
                if let Some(room) = room {
                    let number = RoomNumber(room);
                    prop_assert_eq!(lifetimes.last_ms(number), oracle.get(&room).copied());
                    lifetimes.extend(number, start_ms);
                    oracle.insert(room, start_ms);
                }
                let expired = lifetimes.expire(start_ms, most, looks);
                prop_assert!(expired.len() <= most);
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
        let begin = [15, 16, 4].map(|start_ms| begins(5, start_ms, RETENTION_MS));
        // The last one is of a time to which the dataflow was set back.
        assert_eq!(begin, [false, true, false]);
        assert!(!begins(1, u64::MAX, u64::MAX));
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
}
