//! The schedule by which the totals records of large keys are written. A key is *large* if it has more than
//! [`TotalsPace::small_items`] items.
//!
//! ```text
//!  windows of a key     ─────c───c────c──────────────────────c──────▶ event time
//!  its phase boundaries ─────────────────|──────────────────────|───
//!                            └ first not written  └ due: holds all three changes
//! ```
//!
//! A totals record contains every item that its key has ever had. If the records of thousands of large keys were
//! written at each change, more would be written at every close of a window than a log can accept. So a large key has
//! one boundary in each period. The hash of the key's name decides where in the period this boundary is, so the records
//! of many keys are distributed over the period. The record of a key is due in the window that contains the first
//! boundary after the start of the key's oldest window that is in no record.
//!
//! After a pause in event time, the records of all keys are due at once. When a window is closed, the records that have
//! been due longest are written, up to a number of bytes. The other records follow at the next closes. There is one
//! exception to this limit: a record is written if the final results that it does not contain will soon be deleted from
//! the log. Without them, a restart could not complete the record.
//!
//! The rules are pure functions. The window in which a record is written depends only on the final results, the names
//! of the keys, and the number of workers, since the workers share the limit of bytes.

use std::collections::{BTreeMap, BTreeSet};

use emostream_protocol::{ResultOrder, Window, WindowSize};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};

use super::key_numbers::KeyNumber;
use crate::aggregate::key::Key;

/// The settings that determine how often totals records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalsPace {
    /// Maximum number of items of a small key. The record of a small key is written at each change.
    pub small_items: usize,
    /// The period of large keys: the record of a large key is due once in each period. Milliseconds.
    pub period_ms: u64,
    /// Maximum size of the due records that are written at one close, bytes. All workers share this limit, but each
    /// worker may write at least one record.
    pub close_bytes: usize,
}

impl Default for TotalsPace {
    /// Returns the defaults. The period limits the number of final results that a restart reads again. The limit of
    /// bytes keeps a close short after a pause in event time.
    fn default() -> TotalsPace {
        TotalsPace {
            small_items: 100,
            period_ms: 120_000,
            close_bytes: 4_000_000,
        }
    }
}

impl TotalsPace {
    /// Returns the time at which the record of `key` is due if the key first changed at `since_ms`: the first boundary
    /// of the key after that time.
    fn due_ms(&self, key: &str, since_ms: u64) -> u64 {
        let period_ms = self.period_ms.max(1);
        let phase_ms = stable_hash(key) % period_ms;
        let ahead_ms = (phase_ms + period_ms - since_ms % period_ms - 1) % period_ms + 1;
        since_ms.saturating_add(ahead_ms)
    }
}

/// Returns the 64-bit FNV-1a hash of a text. It is the same in every build and on every platform, since another version
/// must compute the same boundaries after a restart. Differential's hash, which exchanges use, may change with an
/// update of the dependency.
pub fn stable_hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    text.as_bytes().iter().fold(OFFSET, step)
}

/// The range of a key's final results that are not in its totals record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The first final result that is not in the record.
    pub first: ResultOrder,
    /// The time from which the due time is computed, Unix milliseconds. It is the start of the window of the first
    /// final result. If a backward reset followed that final result, the time is at most the final-until time that the
    /// reset has set.
    pub since_ms: u64,
    /// The window of the last final result.
    pub last: Window,
    /// The number of backward resets before the last final result.
    pub last_resets: u64,
}

impl Change {
    /// Returns the range that contains the final results of both ranges.
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

/// The settings of a [`Schedule`].
#[derive(Debug, Clone, Copy)]
pub struct ScheduleParams {
    /// The settings that determine how often records are written.
    pub pace: TotalsPace,
    /// The size of the windows.
    pub size: WindowSize,
    /// The retention of final results in the log, milliseconds; `None` if it is unlimited.
    pub finals_kept_ms: Option<u64>,
    /// Computes the approximate size in bytes of a record from the number of its items.
    pub record_bytes: fn(usize) -> usize,
}

/// The large keys of a worker that have final results in no totals record yet, with the times at which their records
/// are due.
pub struct Schedule<K> {
    params: ScheduleParams,
    /// Maximum size of the due records that this worker writes at one close, bytes.
    max_bytes: usize,
    /// Maximum time for which a due record may wait, milliseconds.
    longest_due_ms: u64,
    keys: HashMap<KeyNumber, Unwritten<K>>,
    /// The times at which records are due, each with the key of the record, in the order of these times.
    queue: BTreeSet<(u64, K, KeyNumber)>,
    /// For each position of a final result, the number of keys whose oldest final result in no record has this
    /// position.
    since: BTreeMap<ResultOrder, usize>,
}

struct Unwritten<K> {
    key: K,
    change: Change,
    due_ms: u64,
    items: usize,
}

/// A record that is to be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The key.
    pub key: KeyNumber,
    /// The last window that changed the key.
    pub last: Window,
    /// The number of backward resets before the last window that changed the key.
    pub resets: u64,
    /// The number of items in the record.
    pub items: usize,
    /// The approximate size of the record, bytes.
    pub bytes: usize,
}

impl<K: Key> Schedule<K> {
    /// Creates the schedule of one of `workers` workers.
    pub fn new(params: ScheduleParams, workers: usize) -> Schedule<K> {
        Schedule {
            params,
            max_bytes: params.pace.close_bytes / workers.max(1),
            // A record waits for at most half of the retention. In the other half, a run may end and the next one may
            // begin.
            longest_due_ms: params
                .finals_kept_ms
                .map_or(u64::MAX, |kept_ms| kept_ms / 2),
            keys: HashMap::default(),
            queue: BTreeSet::new(),
            since: BTreeMap::new(),
        }
    }

    /// Whether a key with `items` items is large, so that its record is not written at each change.
    pub fn is_large(&self, items: usize) -> bool {
        items > self.params.pace.small_items
    }

    /// Whether the key has final results that are in no totals record yet.
    pub fn holds(&self, number: KeyNumber) -> bool {
        self.keys.contains_key(&number)
    }

    /// Stores a change of a key, which has `items` items after the change. `key` returns the key, and is called only if
    /// the key is not in the schedule yet.
    pub fn on_change(
        &mut self,
        number: KeyNumber,
        key: impl FnOnce() -> K,
        change: Change,
        items: usize,
    ) {
        if let Some(unwritten) = self.keys.get_mut(&number) {
            unwritten.change = unwritten.change.merge(change);
            unwritten.items = items;
            return;
        }
        let key = key();
        let due_ms = self.params.pace.due_ms(key.borrow(), change.since_ms);
        self.queue.insert((due_ms, key.clone(), number));
        *self.since.entry(change.first).or_default() += 1;
        let unwritten = Unwritten {
            key,
            change,
            due_ms,
            items,
        };
        self.keys.insert(number, unwritten);
    }

    /// Sets the number of items of a key.
    pub fn resize(&mut self, number: KeyNumber, items: usize) {
        if let Some(unwritten) = self.keys.get_mut(&number) {
            unwritten.items = items;
        }
    }

    /// Removes a key whose record was written, or is not needed any more.
    pub fn remove(&mut self, number: KeyNumber) {
        let Some(unwritten) = self.keys.remove(&number) else {
            return;
        };
        let Unwritten {
            key,
            change,
            due_ms,
            ..
        } = unwritten;
        self.queue.remove(&(due_ms, key, number));
        if let Some(keys) = self.since.get_mut(&change.first) {
            *keys -= 1;
            if *keys == 0 {
                self.since.remove(&change.first);
            }
        }
    }

    /// Returns the position of the oldest final result that is in no totals record.
    pub fn oldest(&self) -> Option<ResultOrder> {
        self.since.first_key_value().map(|(first, _)| *first)
    }

    /// Returns the first window that begins at or after `from_ms` and in which a record is due.
    pub fn next(&self, from_ms: u64) -> Option<Window> {
        let (due_ms, ..) = self.queue.first()?;
        Some(self.params.size.window_of(from_ms.max(*due_ms)))
    }

    /// Removes and returns the record that has been due longest, if it is due in `window`. `spent` is the size of the
    /// records that were already written at the close of this window, bytes. Returns `None` if no further record is
    /// due, or if the limit of bytes is reached.
    pub fn pop_due(&mut self, window: Window, spent: usize) -> Option<Due> {
        let (due_ms, _, number) = self.queue.first()?;
        let (due_ms, number) = (*due_ms, *number);
        let unwritten = self.keys.get(&number)?;
        let bytes = (self.params.record_bytes)(unwritten.items);
        let fits = spent == 0 || spent + bytes <= self.max_bytes;
        let must = window.start >= due_ms.saturating_add(self.longest_due_ms);
        if due_ms >= window.end || !(fits || must) {
            return None;
        }
        let due = Due {
            key: number,
            last: unwritten.change.last,
            resets: unwritten.change.last_resets,
            items: unwritten.items,
            bytes,
        };
        self.remove(number);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SIZE_MS: u64 = 2_000;

    fn size() -> WindowSize {
        WindowSize::from_ms(SIZE_MS).unwrap()
    }

    fn key(number: usize) -> String {
        format!("key-{number}")
    }

    fn record_bytes(items: usize) -> usize {
        120 + items * 32
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
    fn many_keys_spread_over_the_period() {
        let pace = TotalsPace::default();
        let mut by_window: BTreeMap<u64, usize> = BTreeMap::new();
        for number in 0..4_000 {
            let due_ms = pace.due_ms(&key(number), 0);
            *by_window.entry(size().floor(due_ms)).or_default() += 1;
        }
        let windows = by_window.len();
        assert!(windows >= 60, "{by_window:?}");
        let most = by_window.into_values().max().unwrap();
        assert!(most < 2 * 4_000 / windows, "{most} keys");
        // The records that become due in a window of average size fit into one close.
        assert!(4_000 / windows * record_bytes(1591) < pace.close_bytes);
    }

    proptest! {
        /// The oracle checks, for each millisecond after the change, whether it is a boundary of the key.
        #[test]
        fn a_record_is_due_at_the_first_boundary_after_its_first_change(
            number in 0_usize..50, since_ms in 0_u64..500, period_ms in 1_u64..90,
        ) {
            let pace = TotalsPace { period_ms, ..TotalsPace::default() };
            let phase_ms = stable_hash(&key(number)) % period_ms;
            let expected = (since_ms + 1..).find(|at_ms| at_ms % period_ms == phase_ms).unwrap();
            prop_assert_eq!(pace.due_ms(&key(number), since_ms), expected);
        }

        /// The oracle stores the keys in a list, and checks every window. The records that are written do not depend on
        /// how many windows are closed at once, since the schedule handles the windows one by one.
        #[test]
        fn each_close_writes_the_records_that_are_due_longest_up_to_a_size(
            changes in vec((0_usize..12, 0_u64..40, 1_usize..6), 0..80),
            period_ms in 1_u64..20_000, most in 0_usize..1_000, kept_ms in proptest::option::of(0_u64..60_000),
        ) {
            let pace = TotalsPace { small_items: 0, period_ms, close_bytes: most };
            let params = ScheduleParams { pace, size: size(), finals_kept_ms: kept_ms, record_bytes };
            let mut schedule = Schedule::new(params, 1);
            let mut by_window: BTreeMap<u64, BTreeMap<usize, usize>> = BTreeMap::new();
            for (number, nth, items) in changes {
                by_window.entry(nth * SIZE_MS).or_default().insert(number, items);
            }
            let end_ms = 200 * SIZE_MS;
            // The time at which the record of each key is due, the first and the last change of the key, and its number
            // of items.
            let mut unwritten: BTreeMap<usize, (u64, u64, u64, usize)> = BTreeMap::new();
            let (mut written, mut expected) = (Vec::new(), Vec::new());
            for start_ms in (0..end_ms).step_by(SIZE_MS as usize) {
                for (number, items) in by_window.remove(&start_ms).unwrap_or_default() {
                    schedule.on_change(KeyNumber(number as u32), || key(number), change(start_ms), items);
                    let due_ms = pace.due_ms(&key(number), start_ms);
                    let known = unwritten.entry(number).or_insert((due_ms, start_ms, start_ms, items));
                    (known.2, known.3) = (start_ms, items);
                }
                let is_due = unwritten.values().any(|(due_ms, ..)| *due_ms < start_ms + SIZE_MS);
                let window = size().window_of(start_ms);
                prop_assert_eq!(schedule.next(start_ms) == Some(window), is_due);
                let mut spent = 0;
                while let Some(due) = schedule.pop_due(window, spent) {
                    spent += due.bytes;
                    written.push((start_ms, due.key.index(), due.last.start, due.items));
                }
                let mut due: Vec<(u64, String, usize)> =
                    unwritten.iter().map(|(number, it)| (it.0, key(*number), *number)).collect();
                due.retain(|(due_ms, ..)| *due_ms < start_ms + SIZE_MS);
                due.sort();
                let mut spent = 0;
                for (due_ms, _, number) in due {
                    let bytes = record_bytes(unwritten[&number].3);
                    let near = kept_ms.is_some_and(|kept_ms| due_ms + kept_ms / 2 <= start_ms);
                    if spent > 0 && spent + bytes > most && !near {
                        break;
                    }
                    spent += bytes;
                    let (_, _, last_ms, items) = unwritten.remove(&number).unwrap();
                    expected.push((start_ms, number, last_ms, items));
                }
                let oldest = unwritten.values().map(|it| it.1).min();
                prop_assert_eq!(schedule.oldest().map(|it| it.start_ms), oldest);
            }
            prop_assert_eq!(written, expected);
        }
    }
}
