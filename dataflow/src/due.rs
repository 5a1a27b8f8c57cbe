//! When the totals records of large rooms are written.
//!
//! ```text
//!  windows of a room    ─────c───c────c──────────────────────c──────▶ event time
//!  its phase boundaries ─────────────────|──────────────────────|───
//!                            └ first not written  └ due: holds all three changes
//! ```
//!
//! A record holds every emoji that its room has ever seen, so a large one must not be written at each change: 4,000
//! rooms of 1,591 emojis would make every window write 170 MB. A large room has one boundary in each period, at a phase
//! that is a hash of its name. Its record is due in the window that contains the first boundary after the start of its
//! oldest window that is in no record. So the records of many rooms spread over the period.
//!
//! After a pause in event time all rooms are due at once. A close writes the records that are due longest, up to a
//! size; the others follow at the next closes. Records whose finals will soon be deleted from the log are written in
//! spite of that size, since no restart could complete them.
//!
//! Pure: which record is due in which window follows from the finals, the names of the rooms and the number of
//! workers, which share the size.

use std::collections::{BTreeMap, BTreeSet};

use emostream_model::{ResultOrder, Room, Window, WindowSize};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use crate::{results::totals_bytes, rooms::RoomNumber};

/// How often totals records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalsPace {
    /// Maximum number of emojis of a small room, whose record is written at each change.
    pub small_emojis: usize,
    /// The record of a larger room is due once in this time, milliseconds.
    pub period_ms: u64,
    /// Maximum size of the due records of one close, bytes. All workers share it, and each writes at least one.
    pub close_bytes: usize,
}

impl Default for TotalsPace {
    /// The record of a room with 100 emojis has about 3 KB. The period bounds what a start reads again, and the size how
    /// long a close takes after a pause.
    fn default() -> TotalsPace {
        TotalsPace {
            small_emojis: 100,
            period_ms: 120_000,
            close_bytes: 4_000_000,
        }
    }
}

impl TotalsPace {
    /// When a record is due whose room changed first at `since_ms`: the first boundary of the room after that.
    fn due_ms(&self, room: &Room, since_ms: u64) -> u64 {
        let period_ms = self.period_ms.max(1);
        let phase_ms = stable_hash(room.as_str()) % period_ms;
        let ahead_ms = (phase_ms + period_ms - since_ms % period_ms - 1) % period_ms + 1;
        since_ms.saturating_add(ahead_ms)
    }
}

/// FNV-1a, 64 bits: the same in every build and on every platform, since a restart by another version must come to
/// the same boundaries. Exchanges use differential's hash, which may change with a dependency.
pub fn stable_hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    text.as_bytes().iter().fold(OFFSET, step)
}

/// The range of a room's finals that are not in its totals record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The first final that is not in the record.
    pub first: ResultOrder,
    /// The time from which the due time is computed: the start of that final's window, or, if a backward reset came
    /// after it, no later than the time that the reset went back to. Unix milliseconds.
    pub since_ms: u64,
    /// The window of the last final.
    pub last: Window,
    /// The number of backward resets before that final.
    pub last_resets: u64,
}

impl Change {
    /// The change that both make.
    pub fn merge(self, other: Change) -> Change {
        let (earlier, later) = match self.first <= other.first {
            true => (self, other),
            false => (other, self),
        };
        let last_of = |change: Change| ResultOrder::new(change.last_resets, change.last);
        let last = match last_of(earlier) <= last_of(later) {
            true => later,
            false => earlier,
        };
        Change {
            last: last.last,
            last_resets: last.last_resets,
            ..earlier
        }
    }
}

/// The large rooms of a worker whose record is not written.
pub struct Schedule {
    pace: TotalsPace,
    size: WindowSize,
    /// How large the due records of a close are at most, bytes.
    most_bytes: usize,
    /// How long a record may be due at most, milliseconds.
    longest_due_ms: u64,
    rooms: HashMap<RoomNumber, Unwritten>,
    /// By when they are due.
    queue: BTreeSet<(u64, Room, RoomNumber)>,
    /// How many rooms have not been written since this final.
    since: BTreeMap<ResultOrder, usize>,
}

struct Unwritten {
    room: Room,
    change: Change,
    due_ms: u64,
    emojis: usize,
}

/// A record that is to be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Of which room.
    pub room: RoomNumber,
    /// The window that changed it last.
    pub last: Window,
    /// The number of backward resets before that window.
    pub resets: u64,
    /// How many emojis it holds.
    pub emojis: usize,
}

impl Schedule {
    /// The schedule of one of `workers`. The log keeps finals for `finals_kept_ms`.
    pub fn new(
        pace: TotalsPace,
        size: WindowSize,
        workers: usize,
        finals_kept_ms: Option<u64>,
    ) -> Schedule {
        Schedule {
            pace,
            size,
            most_bytes: pace.close_bytes / workers.max(1),
            // The other half is for a run that ends, and for the next one that begins.
            longest_due_ms: finals_kept_ms.map_or(u64::MAX, |kept_ms| kept_ms / 2),
            rooms: HashMap::default(),
            queue: BTreeSet::new(),
            since: BTreeMap::new(),
        }
    }

    /// How many emojis a room may have whose record is written at each change.
    pub fn small_emojis(&self) -> usize {
        self.pace.small_emojis
    }

    /// Whether the room's record is not written.
    pub fn holds(&self, number: RoomNumber) -> bool {
        self.rooms.contains_key(&number)
    }

    /// A room of so many emojis was changed.
    pub fn changed(&mut self, number: RoomNumber, room: &Room, change: Change, emojis: usize) {
        if let Some(unwritten) = self.rooms.get_mut(&number) {
            unwritten.change = unwritten.change.merge(change);
            unwritten.emojis = emojis;
            return;
        }
        let due_ms = self.pace.due_ms(room, change.since_ms);
        self.queue.insert((due_ms, room.clone(), number));
        *self.since.entry(change.first).or_default() += 1;
        let room = room.clone();
        let unwritten = Unwritten {
            room,
            change,
            due_ms,
            emojis,
        };
        self.rooms.insert(number, unwritten);
    }

    /// A room has so many emojis now.
    pub fn resize(&mut self, number: RoomNumber, emojis: usize) {
        if let Some(unwritten) = self.rooms.get_mut(&number) {
            unwritten.emojis = emojis;
        }
    }

    /// The room's record was written, or needs not to be any more.
    pub fn remove(&mut self, number: RoomNumber) {
        let Some(Unwritten {
            room,
            change,
            due_ms,
            ..
        }) = self.rooms.remove(&number)
        else {
            return;
        };
        self.queue.remove(&(due_ms, room, number));
        if let Some(rooms) = self.since.get_mut(&change.first) {
            *rooms -= 1;
            if *rooms == 0 {
                self.since.remove(&change.first);
            }
        }
    }

    /// The oldest final that is in no record.
    pub fn oldest(&self) -> Option<ResultOrder> {
        self.since.first_key_value().map(|(first, _)| *first)
    }

    /// The first window, from `from_ms` on, in which a record is due.
    pub fn next(&self, from_ms: u64) -> Option<Window> {
        let (due_ms, ..) = self.queue.first()?;
        Some(self.size.window_of(from_ms.max(*due_ms)))
    }

    /// Takes the record that is due longest in `window`, after records of `spent` bytes. `None` if no more is to be
    /// written at its close.
    pub fn take(&mut self, window: Window, spent: usize) -> Option<Due> {
        let (due_ms, _, number) = self.queue.first()?;
        let (due_ms, number) = (*due_ms, *number);
        let unwritten = self.rooms.get(&number)?;
        let fits = spent == 0 || spent + totals_bytes(unwritten.emojis) <= self.most_bytes;
        let must = window.start >= due_ms.saturating_add(self.longest_due_ms);
        if due_ms >= window.end || !(fits || must) {
            return None;
        }
        let due = Due {
            room: number,
            last: unwritten.change.last,
            resets: unwritten.change.last_resets,
            emojis: unwritten.emojis,
        };
        self.remove(number);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::rooms::Rooms;

    const SIZE_MS: u64 = 2_000;

    fn size() -> WindowSize {
        WindowSize::from_ms(SIZE_MS).unwrap()
    }

    fn room(number: usize) -> Room {
        Room::new(&format!("room-{number}")).unwrap()
    }

    fn change(start_ms: u64) -> Change {
        let last = size().window_of(start_ms);
        Change {
            first: ResultOrder::new(0, last),
            since_ms: start_ms,
            last,
            last_resets: 0,
        }
    }

    #[test]
    fn the_hash_is_the_published_one() {
        let hashes = ["", "a", "foobar"].map(stable_hash);
        let published = [
            0xcbf2_9ce4_8422_2325,
            0xaf63_dc4c_8601_ec8c,
            0x8594_4171_f739_67e8,
        ];
        assert_eq!(hashes, published);
    }

    #[test]
    fn many_rooms_spread_over_the_period() {
        let pace = TotalsPace::default();
        let mut by_window: BTreeMap<u64, usize> = BTreeMap::new();
        for number in 0..4_000 {
            let due_ms = pace.due_ms(&room(number), 0);
            *by_window.entry(size().floor(due_ms)).or_default() += 1;
        }
        let windows = by_window.len();
        assert!(windows >= 60, "{by_window:?}");
        let most = by_window.into_values().max().unwrap();
        assert!(most < 2 * 4_000 / windows, "{most} rooms");
        // With 1,591 emojis each, a close writes as many as become due, but for the fullest windows.
        assert!(4_000 / windows * totals_bytes(1591) < pace.close_bytes);
    }

    proptest! {
        /// The oracle walks millisecond by millisecond.
        #[test]
        fn a_record_is_due_at_the_first_boundary_behind_its_first_change(
            number in 0_usize..50, since_ms in 0_u64..500, period_ms in 1_u64..90,
        ) {
            let pace = TotalsPace { period_ms, ..TotalsPace::default() };
            let phase_ms = stable_hash(room(number).as_str()) % period_ms;
            let expected = (since_ms + 1..).find(|at_ms| at_ms % period_ms == phase_ms).unwrap();
            prop_assert_eq!(pace.due_ms(&room(number), since_ms), expected);
        }

        /// The oracle keeps a plain list, and looks at every window. What is written does not depend on how far time
        /// advances at once, since the windows between are looked at one by one.
        #[test]
        fn each_close_writes_what_is_due_longest_up_to_a_size(
            changes in vec((0_usize..12, 0_u64..40, 1_usize..6), 0..80),
            period_ms in 1_u64..20_000, most in 0_usize..1_000, kept_ms in proptest::option::of(0_u64..60_000),
        ) {
            let pace = TotalsPace { small_emojis: 0, period_ms, close_bytes: most };
            let mut schedule = Schedule::new(pace, size(), 1, kept_ms);
            let rooms = Rooms::default();
            let mut by_window: BTreeMap<u64, BTreeMap<usize, usize>> = BTreeMap::new();
            for (number, nth, emojis) in changes {
                by_window.entry(nth * SIZE_MS).or_default().insert(number, emojis);
            }
            let end_ms = 200 * SIZE_MS;
            // Room: due, first and last change, emojis.
            let mut unwritten: BTreeMap<usize, (u64, u64, u64, usize)> = BTreeMap::new();
            let (mut written, mut expected) = (Vec::new(), Vec::new());
            for start_ms in (0..end_ms).step_by(SIZE_MS as usize) {
                for (number, emojis) in by_window.remove(&start_ms).unwrap_or_default() {
                    let known = rooms.number(&room(number));
                    schedule.changed(known, &room(number), change(start_ms), emojis);
                    let due_ms = pace.due_ms(&room(number), start_ms);
                    let known = unwritten.entry(number).or_insert((due_ms, start_ms, start_ms, emojis));
                    (known.2, known.3) = (start_ms, emojis);
                }
                let is_due = unwritten.values().any(|(due_ms, ..)| *due_ms < start_ms + SIZE_MS);
                let window = size().window_of(start_ms);
                prop_assert_eq!(schedule.next(start_ms) == Some(window), is_due);
                let mut spent = 0;
                while let Some(due) = schedule.take(window, spent) {
                    spent += totals_bytes(due.emojis);
                    written.push((start_ms, rooms.room(due.room), due.last.start, due.emojis));
                }
                let mut due: Vec<(u64, Room, usize)> =
                    unwritten.iter().map(|(number, it)| (it.0, room(*number), *number)).collect();
                due.retain(|(due_ms, ..)| *due_ms < start_ms + SIZE_MS);
                due.sort();
                let mut spent = 0;
                for (due_ms, name, number) in due {
                    let bytes = totals_bytes(unwritten[&number].3);
                    let near = kept_ms.is_some_and(|kept_ms| due_ms + kept_ms / 2 <= start_ms);
                    if spent > 0 && spent + bytes > most && !near {
                        break;
                    }
                    spent += bytes;
                    let (_, _, last_ms, emojis) = unwritten.remove(&number).unwrap();
                    expected.push((start_ms, name, last_ms, emojis));
                }
                let oldest = unwritten.values().map(|it| it.1).min();
                prop_assert_eq!(schedule.oldest().map(|it| it.start_ms), oldest);
            }
            prop_assert_eq!(written, expected);
        }
    }
}
