//! Closes windows for the totals: decides which totals records are written at each window.
//!
//! ```text
//!  changes ──key by key──▶ small key: its records       large key ─▶ by window
//!                                                                       │
//!  windows ──one after the other──▶ changed large keys ─▶ schedule ─▶ due records
//! ```
//!
//! A key is *large* if it has more than `small_items` items, and *small* otherwise. The frontier may pass several
//! windows at once. While the changes of a small key are read, its records for all of these windows are written.
//! Afterwards, the windows of large keys are closed in order, since all records that are due at one close share a limit
//! of bytes.

use std::{
    collections::{BTreeMap, btree_map},
    mem, vec,
};

use differential_dataflow::trace::{Cursor, Navigable, cursor::cursor_list};
use emostream_protocol::Window;
use foldhash::HashMap;

use super::{
    key_numbers::KeyNumber,
    lifetimes::exceeds_retention,
    reduce::{
        Accumulations, Batch, Difference, accumulate, collect_differences, merge, seek_after,
    },
    step::StepBudget,
    totals_writer::{Outputs, TotalsWriter},
};
use crate::aggregate::key::{Item, Key};

/// A batch of differential dataflow. It contains changes of accumulations, or the accumulations before these changes.
type TotalsBatch<I> = Batch<KeyNumber, I>;

/// Returns the lowest time that is after all of these changes.
pub fn end_of<I: Item>(changes: &[TotalsBatch<I>]) -> u64 {
    let (mut cursor, ref storage) = cursor_list(changes.to_vec());
    let mut end_ms = 0;
    while cursor.key_valid(storage) {
        while cursor.val_valid(storage) {
            cursor.map_times(storage, |time_ms, _| end_ms = end_ms.max(*time_ms + 1));
            cursor.step_val(storage);
        }
        cursor.step_key(storage);
    }
    end_ms
}

/// Windows that are being closed together, since the frontier has passed all of them.
pub struct PendingClose<I: Item> {
    before: Vec<TotalsBatch<I>>,
    changes: Vec<TotalsBatch<I>>,
    /// The last key whose changes were applied.
    last_key: Option<KeyNumber>,
    /// Whether all changes were applied.
    is_applied: bool,
    /// For each window that is not closed yet, the changes of keys that are or were large: the number of the key, and
    /// its number of items after the change. The key of the map is the last instant of the window.
    large: BTreeMap<u64, Vec<(KeyNumber, usize)>>,
    /// The window whose due records are being written.
    closing: Option<ClosingWindow>,
    /// The end of the last of these windows, Unix milliseconds: no further changes before this time will arrive.
    until_ms: u64,
}

/// A window at which large keys have changed, or records are due.
struct ClosingWindow {
    window: Window,
    changed: vec::IntoIter<(KeyNumber, usize)>,
    /// The size of the due records that were written at this close, bytes.
    spent_bytes: usize,
}

/// Buffers for the accumulations and differences of the key that is being read. They are reused for the next key.
struct KeyChanges<'a, I> {
    current: Accumulations<'a, I>,
    next: Accumulations<'a, I>,
    differences: Vec<Difference<'a, I>>,
}

impl<I: Item> PendingClose<I> {
    /// Creates the close of all windows that end by `until_ms`. `before` are the accumulations before `changes`.
    pub fn new(
        before: Vec<TotalsBatch<I>>,
        changes: Vec<TotalsBatch<I>>,
        until_ms: u64,
    ) -> PendingClose<I> {
        PendingClose {
            before,
            changes,
            last_key: None,
            is_applied: false,
            large: BTreeMap::new(),
            closing: None,
            until_ms,
        }
    }

    /// Handles counts until the budget is spent. Returns whether all windows are closed. At `from_ms`, notifies the
    /// sink of restored final results that are in no record.
    pub fn run<K: Key>(
        &mut self,
        writer: &mut TotalsWriter<K, I>,
        from_ms: u64,
        budget: &mut StepBudget,
        outputs: &mut Outputs<K, I>,
    ) -> bool {
        if !self.is_applied {
            self.is_applied = self.apply_changes(writer, budget, outputs);
            if !self.is_applied {
                return false;
            }
            writer.notify(from_ms, outputs);
        }
        self.close_windows(writer, budget, outputs)
    }

    /// Applies the changes key by key: writes the records of small keys, and stores the changes of large keys until
    /// their windows are closed. Returns whether all changes are applied.
    fn apply_changes<K: Key>(
        &mut self,
        writer: &mut TotalsWriter<K, I>,
        budget: &mut StepBudget,
        outputs: &mut Outputs<K, I>,
    ) -> bool {
        let (before, changes) = (self.before.clone(), self.changes.clone());
        let mut single = SingleAccumulations::new(&before);
        let (mut known, ref held) = cursor_list(before.clone());
        let (mut changed, ref added) = cursor_list(changes);
        let mut key = KeyChanges {
            current: Vec::new(),
            next: Vec::new(),
            differences: Vec::new(),
        };
        seek_after(&mut changed, added, self.last_key.as_ref());
        while let Some(&number) = changed.get_key(added) {
            if budget.is_spent() {
                return false;
            }
            collect_differences(&mut changed, added, &mut key.differences);
            if let Some(retired_ms) = writer.numbers.retired_at(number) {
                // After a number was retired, its changes only retract its accumulations, so these changes produce no
                // records.
                key.differences
                    .retain(|(time_ms, ..)| *time_ms < retired_ms);
            }
            if key.differences.is_empty() {
                budget.spend(1);
            } else if writer.is_ordered(number) {
                let of = |item: &I| single.accumulation(number, item);
                self.change_large(writer, number, &mut key.differences, of);
                budget.spend(key.differences.len());
            } else {
                accumulate(&mut known, held, &number, u64::MAX, &mut key.current);
                self.change_small(writer, number, &mut key, outputs);
                budget.spend(key.current.len() + key.differences.len());
            }
            if budget.is_spent() {
                self.last_key = Some(number);
            }
            changed.step_key(added);
        }
        true
    }

    /// Applies the changes of a large key. Calls `accumulation` only for the items that change, in the order of the
    /// items.
    fn change_large<K: Key>(
        &mut self,
        writer: &mut TotalsWriter<K, I>,
        number: KeyNumber,
        differences: &mut [Difference<'_, I>],
        mut accumulation: impl FnMut(&I) -> i64,
    ) {
        let mut sums: HashMap<I, i64> = HashMap::default();
        for (_, item, _) in differences.iter() {
            sums.insert((*item).clone(), accumulation(item));
        }
        differences.sort_by_key(|(time_ms, ..)| *time_ms);
        let mut items = *writer.items(number);
        for at_once in differences.chunk_by(|a, b| a.0 == b.0) {
            for (_, item, diff) in at_once {
                let sum = sums.entry((*item).clone()).or_default();
                let before = mem::replace(sum, *sum + diff);
                items = items + usize::from(before == 0) - usize::from(*sum == 0);
            }
            self.keep(writer, number, items, at_once[0].0);
        }
        *writer.items(number) = items;
    }

    /// Applies the changes of a key that is small before these changes, and may become large.
    fn change_small<K: Key>(
        &mut self,
        writer: &mut TotalsWriter<K, I>,
        number: KeyNumber,
        key: &mut KeyChanges<'_, I>,
        outputs: &mut Outputs<K, I>,
    ) {
        // The sort is stable, so changes of one time stay in the order of their items.
        key.differences.sort_by_key(|(time_ms, ..)| *time_ms);
        let mut is_large = false;
        for at_once in key.differences.chunk_by(|a, b| a.0 == b.0) {
            let time_ms = at_once[0].0;
            merge(&key.current, at_once, &mut key.next);
            mem::swap(&mut key.current, &mut key.next);
            let items = key.current.len() + writer.unnamed(number).len();
            *writer.items(number) = items;
            is_large |= writer.schedule.is_large(items);
            if is_large || !writer.is_of_this_run(time_ms) {
                self.keep(writer, number, items, time_ms);
            } else {
                let window = writer.params.schedule.size.window_of(time_ms);
                let (resets, counts) = (writer.params.resets, counts(&key.current));
                let record = writer.record(number, window, resets, counts);
                outputs.entry(time_ms).or_default().push(record);
            }
        }
    }

    /// Stores a change of a key, with the number of items after it, until the window of the change is closed.
    fn keep<K: Key>(
        &mut self,
        writer: &mut TotalsWriter<K, I>,
        number: KeyNumber,
        items: usize,
        time_ms: u64,
    ) {
        match writer.is_of_this_run(time_ms) {
            true => self.large.entry(time_ms).or_default().push((number, items)),
            // The change was restored. So the key's record contains its counts, or the schedule contains the key
            // already, and only the number of items must be updated.
            false => writer.schedule.resize(number, items),
        }
    }

    /// Closes the windows one after the other. Returns whether all are closed.
    fn close_windows<K: Key>(
        &mut self,
        writer: &mut TotalsWriter<K, I>,
        budget: &mut StepBudget,
        outputs: &mut Outputs<K, I>,
    ) -> bool {
        loop {
            let next = self.closing.take();
            let Some(mut closing) = next.or_else(|| self.next_closing(writer)) else {
                return true;
            };
            if !self.close_window(&mut closing, writer, budget, outputs) {
                self.closing = Some(closing);
            }
            if budget.is_spent() {
                return false;
            }
        }
    }

    /// Returns the next window at which large keys have changed, or records are due.
    fn next_closing<K: Key>(&mut self, writer: &mut TotalsWriter<K, I>) -> Option<ClosingWindow> {
        let size = writer.params.schedule.size;
        let changed = self.large.first_entry();
        let next = changed.as_ref().map(|it| size.window_of(*it.key()));
        let due = writer.next_due(self.until_ms);
        let Some(window) = next.into_iter().chain(due).min() else {
            writer.next_ms = size.floor(self.until_ms).max(writer.next_ms);
            return None;
        };
        let changed = changed.filter(|it| *it.key() == window.last_ms());
        let changed = changed.map(btree_map::OccupiedEntry::remove);
        Some(ClosingWindow {
            window,
            changed: changed.unwrap_or_default().into_iter(),
            spent_bytes: 0,
        })
    }

    /// Stores the large keys that have changed in a window, and writes the records that are due. Returns whether the
    /// window is closed. If the budget is spent before that, the next call continues.
    fn close_window<K: Key>(
        &self,
        closing: &mut ClosingWindow,
        writer: &mut TotalsWriter<K, I>,
        budget: &mut StepBudget,
        outputs: &mut Outputs<K, I>,
    ) -> bool {
        let (window, time_ms) = (closing.window, closing.window.last_ms());
        for (number, items) in closing.changed.by_ref() {
            if writer.schedule.is_large(items) {
                writer.on_change(number, items, window);
                budget.spend(1);
            } else {
                // The key is small now, so its record is written. It was in the schedule because it was large before,
                // or because a previous run had a lower limit for the items of a small key.
                writer.schedule.remove(number);
                let counts = self.counts(number, time_ms, budget);
                let record = writer.record(number, window, writer.params.resets, counts);
                outputs.entry(time_ms).or_default().push(record);
            }
            if budget.is_spent() {
                return false;
            }
        }
        while let Some(due) = writer.schedule.pop_due(window, closing.spent_bytes) {
            if exceeds_retention(due.last.start, window.start, writer.params.retention_ms) {
                // The totals have expired, so no record is written, even if the key is not removed yet. The time of its
                // removal depends on other keys, but the records of a key must not depend on other keys.
                budget.spend(1);
            } else {
                closing.spent_bytes += due.bytes;
                let counts = self.counts(due.key, time_ms, budget);
                let record = writer.record(due.key, due.last, due.resets, counts);
                outputs.entry(time_ms).or_default().push(record);
            }
            if budget.is_spent() {
                return false;
            }
        }
        writer.notify(time_ms, outputs);
        writer.next_ms = window.end;
        true
    }

    /// Returns the counts of a key as of `until_ms`.
    fn counts(&self, number: KeyNumber, until_ms: u64, budget: &mut StepBudget) -> Vec<(I, u64)> {
        let (mut known, ref held) = cursor_list(self.before.clone());
        let (mut changed, ref added) = cursor_list(self.changes.clone());
        let (mut before, mut changes, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        // All times in the trace are read, since compaction may move old differences to later times, up to the upper
        // frontier of the trace.
        accumulate(&mut known, held, &number, u64::MAX, &mut before);
        accumulate(&mut changed, added, &number, until_ms, &mut changes);
        let changes = changes.into_iter().map(|(item, diff)| (0, item, diff));
        merge(&before, &changes.collect::<Vec<_>>(), &mut sums);
        budget.spend(sums.len());
        counts(&sums)
    }
}

fn counts<I: Item>(accumulations: &Accumulations<'_, I>) -> Vec<(I, u64)> {
    let accumulations = accumulations.iter();
    let count = |(item, sum): &(&I, i64)| ((*item).clone(), sum.unsigned_abs());
    accumulations.map(count).collect()
}

/// A reader of single accumulations. It has a cursor for each batch, since differential's cursor over several batches
/// cannot seek a value once one of the batches has no more keys.
struct SingleAccumulations<'a, I: Item>(
    Vec<(<TotalsBatch<I> as Navigable>::Cursor, &'a TotalsBatch<I>)>,
);

impl<'a, I: Item> SingleAccumulations<'a, I> {
    fn new(batches: &'a [TotalsBatch<I>]) -> SingleAccumulations<'a, I> {
        SingleAccumulations(batches.iter().map(|it| (it.cursor(), it)).collect())
    }

    /// Returns the accumulation of an item of a key. Keys, and the items of a key, must be requested in ascending
    /// order.
    fn accumulation(&mut self, number: KeyNumber, item: &I) -> i64 {
        let mut sum = 0;
        for (cursor, batch) in &mut self.0 {
            cursor.seek_key(batch, &number);
            if cursor.get_key(batch) == Some(&number) {
                cursor.seek_val(batch, item);
                if cursor.get_val(batch) == Some(item) {
                    cursor.map_times(batch, |_, diff| sum += diff);
                }
            }
        }
        sum
    }
}
