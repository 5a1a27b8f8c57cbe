//! The state that a worker stores for the totals of its keys, besides the accumulations.
//!
//! An accumulation is the count of one item of a key, which differential dataflow stores. The number of items of each
//! key is stored here, so that a *large* key, which has more than `small_items` items, is recognised without reading
//! its accumulations. When an accumulation that was 0 changes, its key has one more item. The counts of items that this
//! build cannot name are stored here, too. These counts never change, since events with such items are rejected, but
//! each record of their key repeats them.

use std::{cell::RefCell, collections::BTreeMap, mem, rc::Rc};

use differential_dataflow::trace::TraceReader;
use emostream_protocol::{ResultOrder, Window};
use foldhash::HashMap;
use timely::progress::Antichain;

use super::{
    is_of_this_run,
    key_numbers::{KeyNumber, KeyNumbers},
    reduce::Batch,
    registry::Shared,
    schedule::{Change, Schedule},
    totals::{KeyTotals, TotalsParams, UnnamedCount},
};
use crate::{
    aggregate::key::{Item, Key},
    sink::result::UnwrittenSince,
};

/// An output of the operator: a totals record, or a notice of the oldest final result that is in no totals record.
pub type TotalsOutput<K, I> = Result<KeyTotals<K, I>, UnwrittenSince>;

/// For each time, the outputs that are sent at this time.
pub type Outputs<K, I> = BTreeMap<u64, Vec<TotalsOutput<K, I>>>;

/// The state of the totals of a worker's keys.
pub struct TotalsWriter<K, I: Item> {
    /// The settings of the totals.
    pub params: TotalsParams,
    /// The numbers of the keys.
    pub numbers: KeyNumbers<K>,
    /// The large keys that have final results in no record yet.
    pub schedule: Schedule<K>,
    /// The start of the first window that this operator has not closed.
    pub next_ms: u64,
    worker: usize,
    /// For each key, the number of its items. The index is the number of the key.
    items: Vec<usize>,
    /// The counts of items that this build cannot name, for the keys that have such items.
    unnamed: HashMap<KeyNumber, Vec<UnnamedCount>>,
    shared: Rc<RefCell<Shared<I>>>,
    /// For each key whose totals began at 0 again, its new number and its previous number. The new number is the key of
    /// the map.
    replaced: HashMap<KeyNumber, KeyNumber>,
    /// The oldest final result in no totals record, as in the last notice to the sink.
    notified: Option<ResultOrder>,
}

impl<K: Key, I: Item> TotalsWriter<K, I> {
    /// Creates the state of one of `workers` workers. Nothing is restored yet.
    pub fn new(
        params: TotalsParams,
        numbers: KeyNumbers<K>,
        shared: Rc<RefCell<Shared<I>>>,
        worker: usize,
        workers: usize,
    ) -> TotalsWriter<K, I> {
        TotalsWriter {
            schedule: Schedule::new(params.schedule, workers),
            next_ms: params.final_until_ms,
            params,
            worker,
            numbers,
            items: Vec::new(),
            unnamed: HashMap::default(),
            shared,
            replaced: HashMap::default(),
            notified: None,
        }
    }

    /// Returns the number of items of a key.
    pub fn items(&mut self, number: KeyNumber) -> &mut usize {
        let at = number.index();
        if self.items.len() <= at {
            self.items.resize(at + 1, 0);
        }
        &mut self.items[at]
    }

    /// Returns the counts of a key for items that this build cannot name.
    pub fn unnamed(&self, number: KeyNumber) -> &[UnnamedCount] {
        self.unnamed.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Whether a change at `time_ms` was made by this run. Other changes were restored.
    pub fn is_of_this_run(&self, time_ms: u64) -> bool {
        is_of_this_run(time_ms, self.params.final_until_ms)
    }

    /// Returns the first window in which a record is due, if the window ends by `until_ms`.
    pub fn next_due(&self, until_ms: u64) -> Option<Window> {
        let next = self.schedule.next(self.next_ms);
        next.filter(|window| window.end <= until_ms)
    }

    /// Applies the restored state besides the accumulations. Returns whether the operator has work up to `until_ms`
    /// even if no changes arrive: a restored key has no changes if this build cannot name any of its items.
    pub fn has_work(&mut self, until_ms: u64) -> bool {
        let is_restored = self.restore();
        // When a number is freed, its key leaves the schedule. Another final result may then be the oldest one in no
        // record, and the sink must be notified of that one.
        let is_outdated = self.schedule.oldest() != self.notified;
        is_restored || is_outdated || self.next_due(until_ms).is_some()
    }

    /// Applies the restored counts of items that this build cannot name, and the restored changes. Returns whether
    /// there was anything to apply. The other items are counted when the accumulations are read.
    fn restore(&mut self) -> bool {
        let restored = mem::take(&mut self.shared.borrow_mut().restored);
        let is_any = !restored.is_empty();
        for (number, unnamed, change) in restored {
            let items = self.items(number);
            *items += unnamed.len();
            let items = *items;
            if !unnamed.is_empty() {
                self.unnamed.insert(number, unnamed);
            }
            if let Some(change) = change {
                let key = || self.numbers.key(number);
                self.schedule.on_change(number, key, change, items);
            }
        }
        is_any
    }

    /// Notes that a key has changed in `window`, and adds its record to the schedule, since the record is not written
    /// at once.
    pub fn on_change(&mut self, number: KeyNumber, items: usize, window: Window) {
        let change = Change {
            first: ResultOrder::new(self.params.resets, window),
            since_ms: window.start,
            last: window,
            last_resets: self.params.resets,
        };
        let key = || self.numbers.key(number);
        self.schedule.on_change(number, key, change, items);
    }

    /// Returns the batches of the trace with all times before `frontier`.
    pub fn before(&self, frontier: &Antichain<u64>) -> Vec<Batch<KeyNumber, I>> {
        let mut shared = self.shared.borrow_mut();
        let batches = shared.trace().batches_through(frontier.borrow());
        batches.expect("the trace is compacted only up to the times that were written")
    }

    /// Advances `frontier` over empty batches, and lets the trace compact all times before it. All totals before
    /// `frontier` must be written.
    pub fn compact_before(&self, frontier: &mut Antichain<u64>) {
        let mut shared = self.shared.borrow_mut();
        let trace = shared.trace();
        trace.advance_upper(frontier);
        trace.set_logical_compaction(frontier.borrow());
        trace.set_physical_compaction(frontier.borrow());
    }

    /// Stores the previous numbers of keys that have another number now, and drops the state of numbers that were
    /// freed.
    pub fn renumber(&mut self) {
        let (replaced, freed) = {
            let shared = &mut *self.shared.borrow_mut();
            (
                mem::take(&mut shared.replaced),
                mem::take(&mut shared.freed),
            )
        };
        self.replaced.extend(replaced);
        for number in &freed {
            self.schedule.remove(*number);
            self.unnamed.remove(number);
            *self.items(*number) = 0;
        }
        if !freed.is_empty() {
            let numbers = &self.numbers;
            self.replaced
                .retain(|_, former| numbers.retired_at(*former).is_some());
        }
    }

    /// Whether the windows of a key must be closed in order, since a record of the key may be due between two of its
    /// changes. This is so for a large key, for a key in the schedule, and for a key whose previous number may still
    /// have a record that is due earlier.
    pub fn is_ordered(&mut self, number: KeyNumber) -> bool {
        let items = *self.items(number);
        self.schedule.is_large(items)
            || self.schedule.holds(number)
            || self.replaced.contains_key(&number)
    }

    /// Notifies the sink of the oldest final result that is in no totals record as of `time_ms`. Does nothing if the
    /// last notice has named the same final result.
    pub fn notify(&mut self, time_ms: u64, outputs: &mut Outputs<K, I>) {
        let since = self.schedule.oldest();
        if since != self.notified {
            self.notified = since;
            let unwritten = UnwrittenSince {
                worker: self.worker,
                since,
            };
            let outputs = outputs.entry(time_ms).or_default();
            outputs.push(Err(unwritten));
        }
    }

    /// Returns the totals record of a key. The key was last changed in `window`, when there had been `resets` backward
    /// resets.
    pub fn record(
        &self,
        number: KeyNumber,
        window: Window,
        resets: u64,
        counts: Vec<(I, u64)>,
    ) -> TotalsOutput<K, I> {
        Ok(KeyTotals {
            key: self.numbers.key(number),
            window,
            resets,
            counts,
            unnamed: self.unnamed(number).to_vec(),
        })
    }
}
