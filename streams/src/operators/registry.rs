//! Registers the keys of final results: gives each key a number, marks the final results with which the totals of a key
//! begin at 0, and removes keys whose totals have expired.
//!
//! ```text
//!  restored totals ─┐            ┌─▶ marked finals           ─▶ sink, sliding window
//!                   ├─▶ register ┼─▶ changes of accumulations ─▶ arranged accumulations ─┐
//!  finals ──────────┘      ▲     └─▶ keys to be removed      ─▶ sink                     │
//!                          └────── accumulations of retired numbers are read ────────────┘
//! ```
//!
//! The accumulations of a key, which are the counts of its items, are stored under its number. When the totals of the
//! key begin at 0 again, the key gets another number, and its previous number is retired. No result depends on the
//! accumulations of a retired number. They are retracted later, once they are complete in the arrangement. The number
//! of a removed key is retired, too. [`crate::operators::lifetimes`] decides when totals begin and when they expire.
//!
//! Final results wait until all totals are restored, since restored totals contain the time of a key's last final
//! result. When a key has expired, no final result of the key arrives, but the operator must send its removal. So it
//! holds capabilities that follow the frontier of the final results.

use std::{cell::RefCell, collections::VecDeque, mem, rc::Rc};

use differential_dataflow::{
    hashable::Hashable,
    operators::arrange::TraceAgent,
    trace::{Cursor, TraceReader, cursor::cursor_list, implementations::ValSpine},
};
use emostream_protocol::Window;
use timely::{
    dataflow::{
        StreamVec,
        channels::pact::{Exchange, Pipeline},
        operators::{Capability, generic::builder_rc::OperatorBuilder, probe},
    },
    progress::Antichain,
};

use super::{
    key_numbers::{KeyNumber, KeyNumbers},
    lifetimes::Lifetimes,
    output::{Output, new_output},
    reduce::accumulate,
    schedule::Change,
    sliding::KeyChange,
    step::StepBudget,
    totals::{RestoredTotals, TotalsParams, UnnamedCount},
    tumbling::ClosedWindow,
};
use crate::aggregate::key::{Item, Key};

/// Maximum number of keys that all workers together remove at one close. Each removal writes a record to each table,
/// and after a long pause in event time all keys may have expired at once.
const MAX_REMOVED: usize = 1_000;

/// The trace of the accumulations: for each key and item, the count.
pub type TotalsTrace<I> = TraceAgent<ValSpine<KeyNumber, I, u64, i64>>;

/// The state that the operators `register keys` and `totals` of a worker share.
pub struct Shared<I: Item> {
    /// The trace of the accumulations; `None` until they are arranged.
    pub trace: Option<TotalsTrace<I>>,
    /// For each restored key, the state besides its accumulations: the counts of items that this build cannot name, and
    /// the range of the final results that are not in the key's totals record.
    pub restored: Vec<(KeyNumber, Vec<UnnamedCount>, Option<Change>)>,
    /// For each key whose totals began at 0 again: its present number, and its previous number.
    pub replaced: Vec<(KeyNumber, KeyNumber)>,
    /// Numbers that were freed. All state that is stored under them must be dropped before they are used again.
    pub freed: Vec<KeyNumber>,
}

impl<I: Item> Default for Shared<I> {
    fn default() -> Shared<I> {
        Shared {
            trace: None,
            restored: Vec::new(),
            replaced: Vec::new(),
            freed: Vec::new(),
        }
    }
}

impl<I: Item> Shared<I> {
    /// Returns the trace of the accumulations. `totals` compacts it.
    pub fn trace(&mut self) -> &mut TotalsTrace<I> {
        let trace = self.trace.as_mut();
        trace.expect("the accumulations are arranged before the first step")
    }
}

/// The outputs of [`register`].
pub struct Registered<'scope, K: Key, I: Item> {
    /// All final results. A final result is marked if the totals of its key begin at 0 with it.
    pub finals: StreamVec<'scope, u64, ClosedWindow<K, I>>,
    /// The changes of the accumulations, which are stored under the numbers of the keys.
    pub changes: StreamVec<'scope, u64, KeyChange<I>>,
    /// The keys that are removed, each with the start of the window at whose close it is removed.
    pub removed: StreamVec<'scope, u64, (K, u64)>,
}

/// Registers the keys of `finals` and of `restored` totals. Each key is registered on the worker that computes its
/// windows. `durable` is the probe of committed results.
pub fn register<'scope, K: Key, I: Item>(
    finals: StreamVec<'scope, u64, ClosedWindow<K, I>>,
    restored: StreamVec<'scope, u64, RestoredTotals<K, I>>,
    numbers: KeyNumbers<K>,
    shared: Rc<RefCell<Shared<I>>>,
    params: TotalsParams,
    durable: probe::Handle<u64>,
) -> Registered<'scope, K, I> {
    let scope = finals.scope();
    let mut builder = OperatorBuilder::new("register keys".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    // The tumbling windows were exchanged by key, so each final result is on the worker of its key already.
    let mut finals = builder.new_input(finals, Pipeline);
    let by_key = Exchange::new(|totals: &RestoredTotals<K, I>| totals.key.hashed());
    let mut restored = builder.new_input(restored, by_key);
    let (mut of_finals, marked) = new_output(&mut builder);
    let (mut of_changes, changes) = new_output(&mut builder);
    let (mut of_removed, removed) = new_output(&mut builder);
    let max_removed = (MAX_REMOVED / scope.peers()).max(1);
    let size = params.schedule.size;
    builder.build(move |mut capabilities| {
        let removals = capabilities.pop();
        let mut held = capabilities.pop().zip(removals);
        let mut registry = Registry {
            lifetimes: Lifetimes::new(params.retention_ms),
            numbers,
            shared,
            retired: VecDeque::new(),
            max_step_counts: params.max_step_counts,
            closed_until_ms: params.final_until_ms,
        };
        move |frontiers| {
            let mut changes = of_changes.activate();
            restored.for_each_stamp(|at, data| {
                let mut session = changes.session(&at);
                for totals in data.flat_map(|data| data.drain(..)) {
                    session.give_iterator(registry.restore(totals));
                }
            });
            if !frontiers[1].frontier().is_empty() {
                return;
            }
            let durable_ms = durable.with_frontier(|it| it.first().copied());
            let durable_ms = durable_ms.unwrap_or_default();
            registry.free_retired(durable_ms);
            let mut marked = of_finals.activate();
            finals.for_each_stamp(|at, data| {
                let (mut marked, mut changes) = (marked.session(&at), changes.session(&at));
                for mut closed in data.flat_map(|data| data.drain(..)) {
                    let (number, time_ms) =
                        (registry.register(&mut closed), closed.window.last_ms());
                    let change =
                        |(item, count): &(I, u64)| ((number, item.clone()), time_ms, *count as i64);
                    changes.give_iterator(closed.counts.iter().map(change));
                    marked.give(closed);
                }
            });
            // An empty frontier means that the sources have ended, not that all keys have expired.
            let (Some(&until_ms), Some((of_changes, of_removals))) =
                (frontiers[0].frontier().first(), &mut held)
            else {
                held = None;
                return;
            };
            let closed_until_ms = size.floor(until_ms);
            if closed_until_ms > registry.closed_until_ms {
                registry.closed_until_ms = closed_until_ms;
                let closed = size.window_of(closed_until_ms - 1);
                let expired = registry.expire(closed, durable_ms, max_removed);
                let at = of_removals.delayed(&closed.last_ms());
                of_removed.activate().session(&at).give_iterator(expired);
            }
            of_changes.downgrade(&until_ms);
            of_removals.downgrade(&until_ms);
            if registry.retract(of_changes, &mut changes) {
                activator.activate();
            }
        }
    });
    Registered {
        finals: marked,
        changes,
        removed,
    }
}

struct Registry<K, I: Item> {
    lifetimes: Lifetimes,
    numbers: KeyNumbers<K>,
    shared: Rc<RefCell<Shared<I>>>,
    /// Retired numbers whose accumulations are not retracted yet, and the time at which each was retired.
    retired: VecDeque<(u64, KeyNumber)>,
    max_step_counts: usize,
    /// The end of the last window that is closed.
    closed_until_ms: u64,
}

impl<K: Key, I: Item> Registry<K, I> {
    /// Registers a restored key. Returns the changes that produce its accumulations.
    fn restore(&mut self, totals: RestoredTotals<K, I>) -> impl Iterator<Item = KeyChange<I>> {
        let number = self.numbers.number(&totals.key);
        self.lifetimes.extend(number, totals.last_ms);
        self.lifetimes.postpone(number, totals.kept_until_ms);
        if !totals.unnamed.is_empty() || totals.change.is_some() {
            let restored = (number, totals.unnamed, totals.change);
            self.shared.borrow_mut().restored.push(restored);
        }
        let counts = totals.counts.into_iter();
        counts.map(move |(item, count)| ((number, item), 0, count as i64))
    }

    /// Marks a final result if the totals of its key begin at 0 with it. Returns the number under which the key's
    /// accumulations are stored.
    fn register(&mut self, closed: &mut ClosedWindow<K, I>) -> KeyNumber {
        let mut number = self.numbers.number(&closed.key);
        let start_ms = closed.window.start;
        closed.begins = self.lifetimes.begins(number, start_ms);
        if closed.begins && self.lifetimes.forget(number) {
            self.retire(number, closed.window.last_ms());
            let former = mem::replace(&mut number, self.numbers.number(&closed.key));
            self.shared.borrow_mut().replaced.push((number, former));
        }
        self.lifetimes.extend(number, start_ms);
        number
    }

    fn retire(&mut self, number: KeyNumber, time_ms: u64) {
        self.numbers.retire(number, time_ms);
        self.retired.push_back((time_ms, number));
    }

    /// Retires the numbers of up to `max_keys` expired keys. Returns each removed key with the start of `closed`, the
    /// window that was closed last.
    ///
    /// All results before `durable_until_ms` are committed. A key is removed only if it had expired by this time.
    /// Otherwise a record of the key could still be written after the removal.
    fn expire(
        &mut self,
        closed: Window,
        durable_until_ms: u64,
        max_keys: usize,
    ) -> impl Iterator<Item = (K, u64)> {
        let before_ms = closed.start.min(durable_until_ms);
        let max_checks = self.max_step_counts;
        let expired = self.lifetimes.expire(before_ms, max_keys, max_checks);
        expired.into_iter().map(move |number| {
            self.retire(number, closed.last_ms());
            (self.numbers.key(number), closed.start)
        })
    }

    /// Retracts the accumulations of those retired numbers whose accumulations are complete in the arrangement. Stops
    /// when the budget of the step is spent. Returns whether another step must continue the work.
    fn retract(&mut self, at: &Capability<u64>, changes: &mut Output<'_, KeyChange<I>>) -> bool {
        if self.retired.is_empty() {
            return false;
        }
        let mut shared = self.shared.borrow_mut();
        let trace = shared.trace();
        let mut upper = Antichain::new();
        trace.read_upper(&mut upper);
        let is_complete = |retired: &(u64, KeyNumber)| !upper.less_than(&retired.0);
        if !self.retired.front().is_some_and(is_complete) {
            return false;
        }
        let batches = trace.batches_through(upper.borrow());
        let batches = batches.expect("the trace is compacted only up to its end");
        let (mut known, ref held) = cursor_list(batches);
        let mut accumulations = Vec::new();
        let mut session = changes.session(at);
        let mut budget = StepBudget::new(self.max_step_counts);
        while let Some((_, number)) = self.retired.pop_front_if(|it| is_complete(it)) {
            known.rewind_keys(held);
            accumulate(&mut known, held, &number, u64::MAX, &mut accumulations);
            let change = |(item, sum): &(&I, i64)| ((number, (*item).clone()), *at.time(), -sum);
            session.give_iterator(accumulations.iter().map(change));
            self.numbers.mark_empty(number, *at.time());
            budget.spend(accumulations.len().max(1));
            if budget.is_spent() {
                return true;
            }
        }
        false
    }

    /// Frees the retired numbers whose accumulations became 0 before `durable_until_ms`.
    fn free_retired(&mut self, durable_until_ms: u64) {
        let freed = self.numbers.free_retired(durable_until_ms);
        self.shared.borrow_mut().freed.extend(freed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::collections::BTreeMap;

    use emostream_protocol::WindowSize;
    use timely::{
        Config,
        dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input},
    };

    use super::*;
    use crate::operators::{
        schedule::{ScheduleParams, TotalsPace},
        totals::totals,
    };

    fn params(size: WindowSize) -> TotalsParams {
        TotalsParams {
            schedule: ScheduleParams {
                pace: TotalsPace::default(),
                size,
                finals_kept_ms: None,
                record_bytes: |items| items,
            },
            retention_ms: 2_000,
            final_until_ms: 0,
            resets: 0,
            max_step_counts: 50_000,
        }
    }

    /// After a long pause in event time, all keys have expired at once. One close must not remove all of them, since
    /// each removal writes a record to each table.
    #[test]
    fn all_workers_together_remove_a_limited_number_of_keys_with_a_close() {
        const KEYS: usize = 900;
        let workers = timely::execute(Config::process(2), |worker| {
            let size = WindowSize::from_ms(2_000).unwrap();
            let index = worker.index();
            let closed = move |key: usize, start_ms: u64| ClosedWindow {
                key: format!("{index}-{key}"),
                window: size.window_of(start_ms),
                counts: [(0_u16, 1)].into(),
                begins: false,
            };
            let removed = Rc::<RefCell<BTreeMap<u64, usize>>>::default();
            let seen = removed.clone();
            let durable = probe::Handle::new();
            let mut input = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input();
                let totals = totals(finals, Vec::new(), params(size), durable.clone());
                let removed = totals.removed.inspect(move |(_, start_ms)| {
                    *seen.borrow_mut().entry(*start_ms).or_default() += 1;
                });
                removed.probe_with(&durable);
                input
            });
            input.advance_to(3_999);
            (0..KEYS).for_each(|key| input.send(closed(key, 2_000)));
            for start_ms in [18_000, 20_000, 22_000] {
                input.advance_to(start_ms + 1_999);
                input.send(closed(KEYS, start_ms));
                input.advance_to(start_ms + 2_000);
                while durable.less_than(&(start_ms + 2_000)) {
                    worker.step();
                }
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            removed.take()
        });
        let mut all = BTreeMap::<u64, usize>::new();
        for of_worker in workers.unwrap().join() {
            for (start_ms, keys) in of_worker.unwrap() {
                *all.entry(start_ms).or_default() += keys;
            }
        }
        assert!(all.values().all(|keys| *keys <= MAX_REMOVED), "{all:?}");
        assert_eq!(all.values().sum::<usize>(), 2 * KEYS, "{all:?}");
    }
}
