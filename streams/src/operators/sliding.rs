//! Counts in a sliding span of windows. The counts of a final result are added at its window, and subtracted when this
//! window leaves the span.
//!
//! ```text
//!  a final ──▶ + at its window ············ the span ············▶ − at the first window without it in its span
//!                    └── stored here, in compact entries ──────────────┘
//! ```
//!
//! This operator stores the counts that will be subtracted. If differential dataflow stored them, each count of every
//! window of the span would be an update at a future time. So differential has only the current counts (its
//! *accumulations*). When a window is closed, all changes at this window are sent together. Counts that are both added
//! and subtracted cancel before differential sorts the changes.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use differential_dataflow::hashable::Hashable;
use emostream_protocol::{Window, WindowSize};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use timely::{
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{Capability, InputCapability, generic::builder_rc::OperatorBuilder, probe},
    },
    progress::frontier::MutableAntichain,
};

use super::{
    key_numbers::{KeyNumber, KeyNumbers},
    output::{Output, new_output},
    step::StepBudget,
};
use crate::aggregate::key::{Item, Key};

/// A span of windows that slides by one window.
#[derive(Debug, Clone, Copy)]
pub struct SlidingSpan {
    /// The size of the windows.
    pub size: WindowSize,
    /// The length of the span, milliseconds.
    pub span_ms: u64,
}

impl SlidingSpan {
    /// Returns the window at which the counts of `window` leave the span: the first later window whose span does not
    /// contain `window` any more.
    pub fn expires(self, window: Window) -> Window {
        self.size
            .window_of(window.start.saturating_add(self.span_ms))
    }
}

/// Counts of a key, and the time for which they are in the span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlidingContribution<K, I> {
    /// The key.
    pub key: K,
    /// The last instant of the first window whose span contains these counts, Unix milliseconds.
    pub from_ms: u64,
    /// The last instant of the first window whose span does not contain these counts any more, Unix milliseconds.
    pub until_ms: u64,
    /// The counts of the key's items.
    pub counts: Arc<[(I, u64)]>,
}

/// A candidate for the top over all keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Leader<K, I> {
    /// An item. Its count is the sum over all keys.
    Item(I),
    /// A key. Its count is the sum over all its items.
    Key(K),
}

/// A change of the count of an item of a key: the number of the key and the item, then the time, and the difference.
pub type KeyChange<I> = ((KeyNumber, I), u64, i64);

/// A change of a count over all keys of this worker: the item or key, the time, and the difference.
pub type LeaderChange<K, I> = (((), Leader<K, I>), u64, i64);

type Leaders<'scope, K, I> = StreamVec<'scope, u64, LeaderChange<K, I>>;

/// Returns two streams with the changes of the counts in the span at each window. The first has the changes of each
/// key, on the worker that owns the key. The second has the changes of the counts over all keys of this worker.
///
/// `numbers` assigns a number to each key. A key keeps its number while it has counts in the span. `durable` is the
/// probe of committed results, and shows when a number may be used again. A step handles about `max_step_counts`
/// counts.
pub fn sliding_window<'scope, K: Key, I: Item>(
    contributions: StreamVec<'scope, u64, SlidingContribution<K, I>>,
    numbers: KeyNumbers<K>,
    max_step_counts: usize,
    durable: probe::Handle<u64>,
) -> (StreamVec<'scope, u64, KeyChange<I>>, Leaders<'scope, K, I>) {
    let scope = contributions.scope();
    let mut builder = OperatorBuilder::new("sliding window".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    // The tumbling windows were exchanged by the same key, so this exchange leaves each final result on its worker.
    let by_key = Exchange::new(|it: &SlidingContribution<K, I>| it.key.hashed());
    let mut input = builder.new_input(contributions, by_key);
    let (mut of_keys, key_changes) = new_output(&mut builder);
    let (mut of_leaders, leader_changes) = new_output(&mut builder);
    builder.build(move |_| {
        let mut expirations = Expirations {
            numbers,
            max_step_counts,
            held: Vec::new(),
            emptied: VecDeque::new(),
            windows: BTreeMap::new(),
            closing: None,
        };
        move |frontiers| {
            if let Some(until_ms) = durable.with_frontier(|it| it.first().copied()) {
                expirations.free(until_ms);
            }
            input.for_each_stamp(|at, data| {
                for contribution in data.flat_map(|data| data.drain(..)) {
                    expirations.add(&at, &contribution);
                }
            });
            let (mut of_keys, mut of_leaders) = (of_keys.activate(), of_leaders.activate());
            if expirations.close(&frontiers[0], &mut of_keys, &mut of_leaders) {
                activator.activate();
            }
        }
    });
    (key_changes, leader_changes)
}

/// For each window, the counts that are added to the span at this window, and those that are subtracted.
struct Expirations<K, I> {
    numbers: KeyNumbers<K>,
    max_step_counts: usize,
    /// For each key, the number of its entries in the span, and the time at which it last had no entry. The index is
    /// the key's number.
    held: Vec<(usize, u64)>,
    /// Keys without entries in the span, each with the time at which its last entry was subtracted, in the order of
    /// these times.
    emptied: VecDeque<(u64, KeyNumber)>,
    /// For each window, the changes at this window. The key is the last instant of the window.
    windows: BTreeMap<u64, WindowChanges<I>>,
    closing: Option<ClosingWindow<I>>,
}

/// A window that is being closed. The changes of some of its keys were sent already.
struct ClosingWindow<I> {
    time_ms: u64,
    changes: WindowChanges<I>,
    /// The first key whose changes were not sent.
    next: KeyNumber,
    /// The change of the count of each item, summed over the keys whose changes were sent.
    items: HashMap<I, i64>,
}

struct WindowChanges<I> {
    by_key: Capability<u64>,
    over_all_keys: Capability<u64>,
    /// The entries that are added at this window, grouped by the window at which they expire. The key is the last
    /// instant of the window at which they expire.
    added: BTreeMap<u64, Vec<Entry<I>>>,
    /// The entries that expire at this window. Entries that were added at the same window follow one another in the
    /// order of their keys.
    expired: Vec<Entry<I>>,
}

/// The count of an item in a final result. The type is compact, since there are many entries. A count that does not fit
/// into `u32` is split into several entries.
#[derive(Clone, Copy)]
struct Entry<I> {
    key: KeyNumber,
    count: u32,
    item: I,
}

fn entries<I: Item>(key: KeyNumber, item: I, count: u64) -> impl Iterator<Item = Entry<I>> {
    let most = u64::from(u32::MAX);
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| Entry {
        key,
        count: (count - part * most).min(most) as u32,
        item: item.clone(),
    })
}

impl<K: Key, I: Item> Expirations<K, I> {
    fn add(&mut self, at: &InputCapability<u64>, contribution: &SlidingContribution<K, I>) {
        let key = self.numbers.number(&contribution.key);
        let from_ms = contribution.from_ms;
        let window = self.windows.entry(from_ms);
        let window = window.or_insert_with(|| WindowChanges {
            by_key: at.delayed(&from_ms, 0),
            over_all_keys: at.delayed(&from_ms, 1),
            added: BTreeMap::new(),
            expired: Vec::new(),
        });
        let added = window.added.entry(contribution.until_ms).or_default();
        let (counts, before) = (contribution.counts.iter(), added.len());
        added.extend(counts.flat_map(|(item, count)| entries(key, item.clone(), *count)));
        if self.held.len() <= key.index() {
            self.held.resize(key.index() + 1, (0, 0));
        }
        self.held[key.index()].0 += added.len() - before;
    }

    /// Sends the changes of the windows that the frontier has passed, until the budget of the step is spent. Returns
    /// whether another step must continue the work.
    ///
    /// An empty frontier closes no window: it means that the sources have ended, not that windows are complete.
    fn close(
        &mut self,
        frontier: &MutableAntichain<u64>,
        of_keys: &mut Output<'_, KeyChange<I>>,
        of_leaders: &mut Output<'_, LeaderChange<K, I>>,
    ) -> bool {
        let Some(&frontier_ms) = frontier.frontier().first() else {
            return false;
        };
        let mut budget = StepBudget::new(self.max_step_counts);
        loop {
            let next = self.closing.take();
            let Some(mut closing) = next.or_else(|| self.next_closing(frontier_ms)) else {
                return false;
            };
            let time_ms = closing.time_ms;
            let leader = |(leader, diff)| (((), leader), time_ms, diff);
            let upper = closing.upper(budget.left());
            let (changes, entries) = closing.changes.between(closing.next, upper);
            for expired in closing.changes.expired_between(closing.next, upper) {
                self.release(expired[0].key, expired.len(), time_ms);
            }
            let leaders = closing.leaders(&changes, &self.numbers);
            of_leaders
                .session(&closing.changes.over_all_keys)
                .give_iterator(leaders.into_iter().map(leader));
            let change = |((key, item), diff): Change<I>| ((key, item), time_ms, diff);
            of_keys
                .session(&closing.changes.by_key)
                .give_iterator(changes.into_iter().map(change));
            if let Some(upper) = upper {
                closing.next = upper;
                self.closing = Some(closing);
                return true;
            }
            let ClosingWindow { changes, items, .. } = closing;
            budget.spend(entries.max(items.len()));
            let items = items.into_iter().filter(|(_, diff)| *diff != 0);
            of_leaders
                .session(&changes.over_all_keys)
                .give_iterator(items.map(|(item, diff)| leader((Leader::Item(item), diff))));
            self.expire(changes);
            if budget.is_spent() {
                return true;
            }
        }
    }

    /// Removes the earliest window, if the frontier has passed it.
    fn next_closing(&mut self, frontier_ms: u64) -> Option<ClosingWindow<I>> {
        let first = self.windows.first_entry();
        let (time_ms, mut changes) = first.filter(|w| *w.key() < frontier_ms)?.remove_entry();
        // The entries are nearly sorted, so this sort is fast: final results arrive in the order of their keys, and the
        // expiring entries consist of some sorted parts.
        let all = changes.added.values_mut().chain([&mut changes.expired]);
        all.for_each(|entries| entries.sort_by(|a, b| (a.key, &a.item).cmp(&(b.key, &b.item))));
        Some(ClosingWindow {
            time_ms,
            changes,
            next: KeyNumber(0),
            items: HashMap::default(),
        })
    }

    /// Frees the numbers of keys without counts in the span, once the subtraction of their last counts is committed. If
    /// the number of a key was freed earlier, the key could get another number for a new final result. The record of
    /// its new top could then be written before the record of its empty top.
    fn free(&mut self, durable_until_ms: u64) {
        while let Some((time_ms, key)) = self.emptied.pop_front_if(|it| it.0 < durable_until_ms) {
            if self.held[key.index()] == (0, time_ms) {
                self.numbers.free(key);
            }
        }
    }

    /// Notes that some entries of a key are subtracted at the window whose last instant is `time_ms`.
    fn release(&mut self, key: KeyNumber, entries: usize, time_ms: u64) {
        let held = &mut self.held[key.index()];
        held.0 -= entries;
        if held.0 == 0 {
            held.1 = time_ms;
            self.emptied.push_back((time_ms, key));
        }
    }

    /// Stores the entries that were added at a window, until they expire.
    fn expire(&mut self, changes: WindowChanges<I>) {
        for (until_ms, mut added) in changes.added {
            // The window at which these entries were added is closed, so no further entries are added to the list.
            added.shrink_to_fit();
            let later = self.windows.entry(until_ms);
            let later = later.or_insert_with(|| WindowChanges {
                by_key: changes.by_key.delayed(&until_ms),
                over_all_keys: changes.over_all_keys.delayed(&until_ms),
                added: BTreeMap::new(),
                expired: Vec::new(),
            });
            match later.expired.is_empty() {
                true => later.expired = added,
                false => later.expired.append(&mut added),
            }
        }
    }
}

/// The change of the count of an item of a key.
type Change<I> = ((KeyNumber, I), i64);

impl<I: Item> Entry<I> {
    fn of(&self) -> (KeyNumber, I) {
        (self.key, self.item.clone())
    }
}

/// Returns the index range of the entries whose keys are in `lower..upper`. Without `upper`, the keys are `lower` or
/// greater. The entries must be sorted by key.
fn within<I>(entries: &[Entry<I>], lower: KeyNumber, upper: Option<KeyNumber>) -> Range<usize> {
    let from = entries.partition_point(|entry| entry.key < lower);
    let below = |upper| entries.partition_point(|entry| entry.key < upper);
    from..upper.map_or(entries.len(), below)
}

impl<I: Item> ClosingWindow<I> {
    /// Returns the first key that this step does not handle; `None` if the step handles all remaining keys. The step
    /// handles at least one key, and about `most` entries.
    fn upper(&self, most: usize) -> Option<KeyNumber> {
        let after = |entries: &Vec<Entry<I>>| {
            let from = entries.partition_point(|entry| entry.key < self.next);
            entries
                .get(from + most)
                .map(|entry| KeyNumber(entry.key.0 + 1))
        };
        let all = self.changes.added.values().chain([&self.changes.expired]);
        all.filter_map(after).min()
    }

    /// Returns the change of the total count of each key in `changes`. Adds the changes of the items to `items`.
    fn leaders<K: Key>(
        &mut self,
        changes: &[Change<I>],
        numbers: &KeyNumbers<K>,
    ) -> Vec<(Leader<K, I>, i64)> {
        let mut leaders = Vec::new();
        for of_key in changes.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let ((key, _), _) = of_key[0];
            let sum: i64 = of_key.iter().map(|(_, diff)| diff).sum();
            if sum != 0 {
                leaders.push((Leader::Key(numbers.key(key)), sum));
            }
            for ((_, item), diff) in of_key {
                *self.items.entry(item.clone()).or_default() += diff;
            }
        }
        leaders
    }
}

impl<I: Item> WindowChanges<I> {
    /// Returns the expiring entries of the keys in `lower..upper`: one slice for each key.
    fn expired_between(
        &self,
        lower: KeyNumber,
        upper: Option<KeyNumber>,
    ) -> impl Iterator<Item = &[Entry<I>]> {
        self.expired[within(&self.expired, lower, upper)].chunk_by(|a, b| a.key == b.key)
    }

    /// Returns the changes of the keys in `lower..upper`: for each key and item, the counts that are added minus the
    /// counts that expire. Also returns the number of entries from which the changes were computed.
    fn between(&self, lower: KeyNumber, upper: Option<KeyNumber>) -> (Vec<Change<I>>, usize) {
        let signed =
            |sign: i64| move |entry: &Entry<I>| (entry.of(), sign * i64::from(entry.count));
        let within = |entries: &'_ Vec<Entry<I>>| within(entries, lower, upper);
        let added = self.added.values();
        let added = added.flat_map(|entries| entries[within(entries)].iter().map(signed(1)));
        let expired = self.expired[within(&self.expired)].iter().map(signed(-1));
        let mut changes: Vec<Change<I>> = added.chain(expired).collect();
        let entries = changes.len();
        // A stable sort is used, since it detects the sorted parts of the list and merges them.
        changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        changes.dedup_by(|next, sum| {
            let same = next.0 == sum.0;
            sum.1 += if same { next.1 } else { 0 };
            same
        });
        changes.retain(|(_, diff)| *diff != 0);
        (changes, entries)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::{cell::RefCell, rc::Rc};

    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;

    /// A change of a count, and the window at which the count changes.
    type Seen<T> = Rc<RefCell<Vec<(T, u64, i64)>>>;

    /// If numbers were not used again, each key that was ever in the span would need a number for ever, and the tables
    /// would grow without limit.
    #[test]
    fn a_number_is_used_again_once_it_is_committed_that_its_key_has_left() {
        let numbers = KeyNumbers::<String>::default();
        let next = |key: &str| numbers.number(&key.to_owned());
        let number = next("key");
        let mut expirations = Expirations::<String, u16> {
            numbers: numbers.clone(),
            max_step_counts: 4,
            held: vec![(2, 0)],
            emptied: VecDeque::new(),
            windows: BTreeMap::new(),
            closing: None,
        };
        expirations.release(number, 2, 10);
        expirations.free(10);
        assert_ne!(next("other"), number, "its leaving is not committed");
        expirations.held[number.index()].0 = 3;
        expirations.free(11);
        assert_ne!(next("third"), number, "the key has returned");
        expirations.release(number, 3, 20);
        expirations.held[number.index()].0 = 1;
        expirations.release(number, 1, 30);
        expirations.free(21);
        assert_ne!(next("fourth"), number, "it has left once more");
        expirations.free(31);
        assert_eq!(next("fifth"), number);
        assert_ne!(next("sixth"), number);
    }

    #[test]
    fn a_close_of_many_counts_takes_several_steps_and_leaves_none_out() {
        const STEP_COUNTS: usize = 4;
        // Each key has more counts than the budget of a step.
        const ITEMS: usize = 6;
        const KEYS: usize = 10 * STEP_COUNTS;
        timely::execute_directly(move |worker| {
            let (by_key, over_all_keys): (Seen<_>, Seen<_>) = Default::default();
            let (of_key, of_leader) = (by_key.clone(), over_all_keys.clone());
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, contributions) = scope.new_input();
                let durable = probe::Handle::new();
                let (keys, leaders) =
                    sliding_window(contributions, KeyNumbers::default(), STEP_COUNTS, durable);
                let keys = keys.inspect(move |change| of_key.borrow_mut().push(*change));
                leaders.inspect(move |((_, leader), at_ms, diff)| {
                    of_leader.borrow_mut().push((leader.clone(), *at_ms, *diff));
                });
                (input, keys.probe().0)
            });
            for key in 0..KEYS {
                input.send(SlidingContribution {
                    key: format!("key-{key}"),
                    from_ms: 0,
                    until_ms: 10,
                    counts: (0..ITEMS as u16).map(|item| (item, 2)).collect(),
                });
            }
            for (frontier_ms, time_ms, diff) in [(10, 0, 2), (20, 10, -2)] {
                input.advance_to(frontier_ms);
                let mut changes = Vec::new();
                while probe.less_than(&frontier_ms) {
                    worker.step();
                    let step = by_key.take();
                    // A step may exceed its budget by the counts of one key, and the last step also handles the first
                    // key of the next window.
                    let most = STEP_COUNTS + ITEMS;
                    assert!(step.len() <= most, "{} changes in a step", step.len());
                    changes.extend(step);
                }
                assert_eq!(changes.len(), KEYS * ITEMS);
                assert!(
                    changes
                        .iter()
                        .all(|(_, at_ms, by)| (*at_ms, *by) == (time_ms, diff))
                );
                let leaders = over_all_keys.take();
                assert_eq!(leaders.len(), KEYS + ITEMS);
                let sum: i64 = leaders.iter().map(|(_, _, diff)| diff).sum();
                assert_eq!(sum, 2 * diff * (KEYS * ITEMS) as i64);
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }
}
