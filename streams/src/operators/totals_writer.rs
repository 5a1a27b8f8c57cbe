//! What a worker knows of the totals of its keys, besides their accumulations.
//!
//! Which keys are large is known without reading their accumulations, since the number of items of each key is kept: a
//! change of an accumulation that was 0 adds one. Counts of items that this build cannot name lie here, too. They never
//! change, since events with such items are rejected, but each record of their key repeats them.

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

/// What is sent, by time.
pub type Outputs<K, I> = BTreeMap<u64, Vec<TotalsOutput<K, I>>>;

/// What a worker knows of its keys.
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
    /// How many items each key has, by its number.
    items: Vec<usize>,
    /// The counts that this build cannot name, of the keys that have any.
    unnamed: HashMap<KeyNumber, Vec<UnnamedCount>>,
    shared: Rc<RefCell<Shared<I>>>,
    /// The new and the former number of each key whose totals began at 0 again.
    replaced: HashMap<KeyNumber, KeyNumber>,
    /// What the sink was notified of last.
    notified: Option<ResultOrder>,
}

impl<K: Key, I: Item> TotalsWriter<K, I> {
    /// The state of one of `workers`, before anything is restored.
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

    /// How many items a key has.
    pub fn items(&mut self, number: KeyNumber) -> &mut usize {
        let at = number.index();
        if self.items.len() <= at {
            self.items.resize(at + 1, 0);
        }
        &mut self.items[at]
    }

    /// The counts of a key that this build cannot name.
    pub fn unnamed(&self, number: KeyNumber) -> &[UnnamedCount] {
        self.unnamed.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Whether a change at that time was made by this run, and not restored.
    pub fn is_of_this_run(&self, time_ms: u64) -> bool {
        is_of_this_run(time_ms, self.params.final_until_ms)
    }

    /// The first window that ends by `until_ms` and in which a record is due.
    pub fn next_due(&self, until_ms: u64) -> Option<Window> {
        let next = self.schedule.next(self.next_ms);
        next.filter(|window| window.end <= until_ms)
    }

    /// Applies the restored state besides the accumulations. Returns whether there is anything to do up to `until_ms`
    /// without changes: a key whose items are all unnamed has none.
    pub fn has_work(&mut self, until_ms: u64) -> bool {
        let is_restored = self.restore();
        // Numbers that were freed had records that need not be written any more.
        let is_outdated = self.schedule.oldest() != self.notified;
        is_restored || is_outdated || self.next_due(until_ms).is_some()
    }

    /// Returns whether there was anything to restore. The numbers of items grow when the accumulations are read.
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

    /// A key has changed in `window`, and its record is not written at once.
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

    /// Records which keys have got other numbers, and drops the state of numbers that were freed.
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
    /// key is large or in the schedule, or its former number may still have a record that is due earlier.
    pub fn is_ordered(&mut self, number: KeyNumber) -> bool {
        let items = *self.items(number);
        self.schedule.is_large(items)
            || self.schedule.holds(number)
            || self.replaced.contains_key(&number)
    }

    /// Notifies the sink if another final than before is the oldest that is in no record, as of `time_ms`.
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

    /// The record of a key that was changed last in `window`, after so many backward resets.
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
