//! A reduction of the accumulations of each key: the counts of its values, which differential dataflow stores. The
//! times must be totally ordered. The reduction emits the results of each change at the time of the change.
//!
//! ```text
//!  changes ─▶ arranged accumulations ─▶ for each key and time that changed: (before, after) ─▶ results
//! ```
//!
//! Differential's general `reduce` also arranges its output, since the times of a change may be partially ordered. Here
//! times are totally ordered, so the accumulations before and after a change determine what is emitted, and the output
//! need not be arranged (differential's `count_total` and `threshold_total` use the same rule). If very many
//! accumulations change at once, arranging the output would cost more than the accumulations themselves.
//!
//! Differential may send changes of several times together, with the capability of the earliest time. The sink commits
//! by time, so this operator sends each result at the time of its own change. Otherwise a result could be committed
//! before its window is, and a restart would write it once more.

use std::{collections::BTreeMap, mem, rc::Rc};

use differential_dataflow::{
    Data,
    operators::arrange::{Arranged, TraceAgent},
    trace::{
        Cursor, Navigable, TraceReader,
        cursor::{CursorList, cursor_list},
        implementations::{ValSpine, Vector, ord_neu::OrdValBatch},
    },
};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Pipeline,
        operators::{Capability, generic::Operator},
    },
    progress::Antichain,
};

use super::step::StepBudget;

/// The accumulations of a key: each value with its count, in the order of the values. Counts that are 0 are left out.
pub type Accumulations<'a, V> = Vec<(&'a V, i64)>;

/// A batch of changes of accumulations, all between two times.
pub type Batch<K, V> = Rc<OrdValBatch<Vector<((K, V), u64, i64)>>>;

/// A cursor over several batches.
pub type BatchCursor<K, V> = CursorList<<Batch<K, V> as Navigable>::Cursor>;

/// A change of one accumulation: its time, its value and the difference.
pub type Difference<'a, V> = (u64, &'a V, i64);

/// Calls `emit` for each change of a key: with the key, its accumulations before and after the change, and the time of
/// the change. Sends the results of `emit` at that time. A step handles about `max_step_counts` counts.
pub fn reduce_total_order<'scope, K: Data, V: Data, W: Clone + 'static>(
    arranged: Arranged<'scope, TraceAgent<ValSpine<K, V, u64, i64>>>,
    name: &str,
    max_step_counts: usize,
    mut emit: impl FnMut(&K, &Accumulations<'_, V>, &Accumulations<'_, V>, u64) -> Option<W> + 'static,
) -> StreamVec<'scope, u64, W> {
    let mut trace = arranged.trace;
    let stream = arranged.stream;
    let scope = stream.scope();
    stream.unary_frontier::<CapacityContainerBuilder<Vec<W>>, _, _, _>(
        Pipeline,
        name,
        move |_, info| {
            let activator = scope.activator_for(info.address);
            // The times of the changes are in [lower, upper). The batches of the trace up to `lower` contain the
            // accumulations before these changes.
            let mut upper = Antichain::from_elem(0);
            let mut pending: Option<Pending<K, V>> = None;
            move |(input, _), output| {
                let mut budget = StepBudget::new(max_step_counts);
                loop {
                    // While the changes of an earlier step are pending, later changes wait in the input.
                    if pending.is_none() {
                        let lower = upper.clone();
                        let mut earliest: Option<Capability<u64>> = None;
                        let mut changes = Vec::new();
                        input.for_each(|stamp, spans| {
                            if let Some(at) = stamp.retain_least(0)
                                && earliest.as_ref().is_none_or(|it| at.time() < it.time())
                            {
                                earliest = Some(at);
                            }
                            for span in spans.drain(..) {
                                upper.clone_from(span.upper());
                                changes.extend(span.inner);
                            }
                        });
                        pending = earliest.map(|earliest| Pending {
                            earliest,
                            before: trace.batches_through(lower.borrow()).expect(
                                "the trace is compacted only up to the times that were emitted",
                            ),
                            changes,
                            last_key: None,
                        });
                    }
                    let Some(some) = &mut pending else { break };
                    let mut emitted: BTreeMap<u64, Vec<W>> = BTreeMap::new();
                    let is_done = some.reduce(&mut budget, |key, before, after, time_ms| {
                        if let Some(datum) = emit(key, before, after, time_ms) {
                            emitted.entry(time_ms).or_default().push(datum);
                        }
                    });
                    for (time_ms, emitted) in emitted {
                        let at = some.earliest.delayed(&time_ms);
                        output.session(&at).give_iterator(emitted.into_iter());
                    }
                    if !is_done {
                        activator.activate();
                        return;
                    }
                    pending = None;
                }
                // All changes before `upper` are emitted, so the trace may merge their times.
                trace.advance_upper(&mut upper);
                trace.set_logical_compaction(upper.borrow());
                trace.set_physical_compaction(upper.borrow());
            }
        },
    )
}

/// Changes that arrived together, and the accumulations before these changes.
struct Pending<K: Data, V: Data> {
    earliest: Capability<u64>,
    before: Vec<Batch<K, V>>,
    changes: Vec<Batch<K, V>>,
    /// The last key that was handled.
    last_key: Option<K>,
}

impl<K: Data, V: Data> Pending<K, V> {
    /// Handles the changed keys one after the other, until the budget is spent. Calls `each` for each change: with the
    /// key, the accumulations before and after the change, and its time. Returns whether every key was handled.
    fn reduce(
        &mut self,
        budget: &mut StepBudget,
        mut each: impl FnMut(&K, &Accumulations<'_, V>, &Accumulations<'_, V>, u64),
    ) -> bool {
        let (mut known, ref held) = cursor_list(self.before.clone());
        let (mut changed, ref added) = cursor_list(self.changes.clone());
        let (mut current, mut next) = (Vec::new(), Vec::new());
        let mut differences = Vec::new();
        seek_after(&mut changed, added, self.last_key.as_ref());
        while let Some(key) = changed.get_key(added) {
            if budget.is_spent() {
                return false;
            }
            accumulate(&mut known, held, key, u64::MAX, &mut current);
            collect_differences(&mut changed, added, &mut differences);
            // The sort is stable, so changes of one time stay in the order of their values.
            differences.sort_by_key(|(time_ms, ..)| *time_ms);
            for at_once in differences.chunk_by(|a, b| a.0 == b.0) {
                merge(&current, at_once, &mut next);
                each(key, &current, &next, at_once[0].0);
                mem::swap(&mut current, &mut next);
            }
            budget.spend(current.len() + differences.len());
            if budget.is_spent() {
                self.last_key = Some(key.clone());
            }
            changed.step_key(added);
        }
        true
    }
}

/// Moves the cursor to the first key after `key`.
pub fn seek_after<K: Data, V: Data>(
    cursor: &mut BatchCursor<K, V>,
    storage: &Vec<Batch<K, V>>,
    key: Option<&K>,
) {
    if let Some(key) = key {
        cursor.seek_key(storage, key);
        if cursor.get_key(storage) == Some(key) {
            cursor.step_key(storage);
        }
    }
}

/// Replaces the contents of `accumulations` by the accumulations of `key` as of `until_ms`. The cursor must be at `key`
/// or before it.
pub fn accumulate<'a, K: Data, V: Data>(
    cursor: &mut BatchCursor<K, V>,
    storage: &'a Vec<Batch<K, V>>,
    key: &K,
    until_ms: u64,
    accumulations: &mut Accumulations<'a, V>,
) {
    accumulations.clear();
    cursor.seek_key(storage, key);
    if cursor.get_key(storage) != Some(key) {
        return;
    }
    while let Some(value) = cursor.get_val(storage) {
        let mut sum = 0;
        cursor.map_times(storage, |time_ms, diff| {
            if *time_ms <= until_ms {
                sum += diff;
            }
        });
        if sum != 0 {
            accumulations.push((value, sum));
        }
        cursor.step_val(storage);
    }
}

/// Replaces `differences` by the differences of the key at the cursor, in the order of their values.
pub fn collect_differences<'a, K: Data, V: Data>(
    cursor: &mut BatchCursor<K, V>,
    storage: &'a Vec<Batch<K, V>>,
    differences: &mut Vec<Difference<'a, V>>,
) {
    differences.clear();
    while let Some(value) = cursor.get_val(storage) {
        cursor.map_times(storage, |time_ms, diff| {
            differences.push((*time_ms, value, *diff))
        });
        cursor.step_val(storage);
    }
}

/// Replaces the contents of `next` by the sum of `current` and the differences. `current` and the differences are
/// ordered by value.
pub fn merge<'a, V: Ord>(
    current: &Accumulations<'a, V>,
    added: &[Difference<'a, V>],
    next: &mut Accumulations<'a, V>,
) {
    next.clear();
    let mut current = current.iter().copied().peekable();
    for &(_, value, diff) in added {
        while let Some(sum) = current.next_if(|(known, _)| *known < value) {
            next.push(sum);
        }
        let former = current.next_if(|(known, _)| *known == value);
        let sum = former.map_or(0, |(_, sum)| sum) + diff;
        if sum != 0 {
            next.push((value, sum));
        }
    }
    next.extend(current);
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use differential_dataflow::{
        operators::arrange::arrangement::arrange_core, trace::implementations::ValBatcher,
    };
    use proptest::{collection::vec, prelude::*};
    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;

    type Change = ((u8, u8), u64, i64);
    /// A change that a test expects: the key, the time, and the accumulations before and after the change.
    type Emitted = (u8, u64, Vec<(u8, i64)>, Vec<(u8, i64)>);

    /// Sends the changes of each group together. Between two groups, advances time to the time of the next group.
    /// Returns the results, each with the time at which it was sent.
    fn emitted(groups: Vec<(u64, Vec<Change>)>) -> Vec<(u64, Emitted)> {
        timely::execute_directly(move |worker| {
            let seen: Rc<RefCell<Vec<(u64, Emitted)>>> = Rc::default();
            let shown = seen.clone();
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, changes) = scope.new_input();
                let arranged = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
                    changes,
                    Pipeline,
                    "arranged",
                    ValBatcher::new,
                );
                let own = |it: &Accumulations<'_, u8>| it.iter().map(|(v, n)| (**v, *n)).collect();
                let emitted = reduce_total_order(
                    arranged,
                    "reduce",
                    4,
                    move |key: &u8, before, after, at| Some((*key, at, own(before), own(after))),
                );
                let emitted = emitted.inspect_core(move |event| {
                    if let Ok((stamp, data)) = event {
                        let at = stamp.iter().next().copied().unwrap_or_default();
                        let data = data.iter().map(|it: &Emitted| (at, it.clone()));
                        shown.borrow_mut().extend(data);
                    }
                });
                (input, emitted.probe().0)
            });
            for (from_ms, mut changes) in groups {
                input.advance_to(from_ms);
                while probe.less_than(&from_ms) {
                    worker.step();
                }
                input.send_batch(&mut changes);
            }
            drop(input);
            while worker.step() {}
            seen.take()
        })
    }

    fn accumulated(changes: &[Change], key: u8, until_ms: u64) -> Vec<(u8, i64)> {
        let mut sums: BTreeMap<u8, i64> = BTreeMap::new();
        for ((of, value), time_ms, diff) in changes {
            if *of == key && *time_ms < until_ms {
                *sums.entry(*value).or_default() += diff;
            }
        }
        sums.into_iter().filter(|(_, sum)| *sum != 0).collect()
    }

    proptest! {
        /// For each time, the oracle computes two sums: of all changes before that time, and of all changes up to and
        /// including that time.
        #[test]
        fn every_change_is_emitted_once_at_its_time(
            groups in vec((0_u64..4, vec(((0_u8..3, 0_u8..4), 0_u64..6, -2_i64..3), 0..12)), 0..6),
        ) {
            let mut from_ms = 0;
            let place = |(step, changes): (u64, Vec<Change>)| {
                from_ms += step;
                let later = |((key, value), after, diff)| ((key, value), from_ms + after, diff);
                (from_ms, changes.into_iter().map(later).collect::<Vec<Change>>())
            };
            let groups: Vec<_> = groups.into_iter().map(place).collect();
            let all: Vec<Change> = groups.iter().flat_map(|(_, group)| group.clone()).collect();
            let moments: BTreeSet<(u8, u64)> = all.iter().map(|((key, _), at, _)| (*key, *at)).collect();
            let expected = moments.into_iter().filter_map(|(key, at_ms)| {
                let (before, after) = (accumulated(&all, key, at_ms), accumulated(&all, key, at_ms + 1));
                (before != after).then_some((at_ms, (key, at_ms, before, after)))
            });
            let mut emitted = emitted(groups);
            emitted.sort_unstable_by_key(|(_, (key, at_ms, ..))| (*key, *at_ms));
            prop_assert_eq!(emitted, expected.collect::<Vec<_>>());
        }
    }
}
