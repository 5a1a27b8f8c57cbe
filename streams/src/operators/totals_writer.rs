//! The state of the totals of a worker's keys, besides their accumulations.
//!
//! The number of items of each key is stored, so that a large key is recognised without reading its accumulations. A
//! change of an accumulation that was 0 adds one item. The counts of items that this build cannot name are stored here,
//! too. They never change, since events with such items are rejected, but each record of their key repeats them.

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

/// A record that is written, or the oldest final that is in no record.
pub type TotalsOutput<K, I> = Result<KeyTotals<K, I>, UnwrittenSince>;

/// The results that are sent, by time.
pub type Outputs<K, I> = BTreeMap<u64, Vec<TotalsOutput<K, I>>>;

/// The state of the totals of a worker's keys.
pub struct TotalsWriter<K, I: Item> {
    /// The settings.
    pub params: TotalsParams,
    /// The keys by number.
    pub numbers: KeyNumbers<K>,
    /// The large keys whose record is not written.
    pub schedule: Schedule<K>,
    /// The start of the first window that is not closed here.
    pub next_ms: u64,
    worker: usize,
    /// The number of items of each key, by the number of the key.
    items: Vec<usize>,
    /// The counts that this build cannot name, of the keys that have any.
    unnamed: HashMap<KeyNumber, Vec<UnnamedCount>>,
    shared: Rc<RefCell<Shared<I>>>,
    /// The new and the previous number of each key whose totals began at 0 again.
    replaced: HashMap<KeyNumber, KeyNumber>,
    /// The oldest unwritten final of which the sink was notified last.
    notified: Option<ResultOrder>,
}

impl<K: Key, I: Item> TotalsWriter<K, I> {
    /// Creates the state of one of `workers`, before anything is restored.
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

    /// Whether this run has made a change of that time, so that it was not restored.
    pub fn is_of_this_run(&self, time_ms: u64) -> bool {
        is_of_this_run(time_ms, self.params.final_until_ms)
    }

    /// Returns the first window that ends by `until_ms` and in which a record is due.
    pub fn next_due(&self, until_ms: u64) -> Option<Window> {
        let next = self.schedule.next(self.next_ms);
        next.filter(|window| window.end <= until_ms)
    }

    /// Applies the restored state besides the accumulations. Returns whether there is work up to `until_ms` even if
    /// there are no changes: a key whose items are all unnamed has no changes.
    pub fn has_work(&mut self, until_ms: u64) -> bool {
        let is_restored = self.restore();
        // The records of numbers that were freed are not needed any more.
        let is_outdated = self.schedule.oldest() != self.notified;
        is_restored || is_outdated || self.next_due(until_ms).is_some()
    }

    /// Applies the restored unnamed counts and changes. Returns whether there were any. The accumulations add to the
    /// numbers of items when they are read.
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

    /// Records that a key has changed in `window`, and that its record is not written at once.
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
        batches.expect("the trace is not compacted beyond what was written")
    }

    /// Advances `frontier`, before which all totals are written, over empty batches, and lets the trace compact all
    /// times before it.
    pub fn compact_before(&self, frontier: &mut Antichain<u64>) {
        let mut shared = self.shared.borrow_mut();
        let trace = shared.trace();
        trace.advance_upper(frontier);
        trace.set_logical_compaction(frontier.borrow());
        trace.set_physical_compaction(frontier.borrow());
    }

    /// Records the keys that have another number now, and drops the state of numbers that were freed.
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

    /// Whether the windows of a key are closed in order, since a record may be due at one of them before the next: the
    /// key is large or in the schedule, or its previous number may still have a record that is due earlier.
    pub fn is_ordered(&mut self, number: KeyNumber) -> bool {
        let items = *self.items(number);
        self.schedule.is_large(items)
            || self.schedule.holds(number)
            || self.replaced.contains_key(&number)
    }

    /// Notifies the sink of the oldest final that is in no record, as of `time_ms`, if it has changed.
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

    /// Returns the record of a key that was changed last in `window`, after this number of backward resets.
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
