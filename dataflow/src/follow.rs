//! What each change of a room's sums means, told at the time of the change.
//!
//! ```text
//!  changes ─▶ arranged sums ─▶ for each key and time that changed: (before, after) ─▶ what is told
//! ```
//!
//! Times here are totally ordered, so the sums before and after a change say everything: no arrangement
//! of what was told before is kept, as differential's general `reduce` does (its own `count_total` goes the
//! same way). Of 500,000 sums that change at once, keeping and merging it cost more than the sums.
//!
//! Differential sends changes of several times under one stamp, the earliest of them. The sink commits by
//! stamp: what is told therefore travels at its own time, or a result could be committed before the window
//! it belongs to, and again after a restart.

use std::{collections::BTreeMap, rc::Rc};

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

/// The sums of a key, those that are not 0, by value.
pub type Sums<'a, V> = Vec<(&'a V, i64)>;

/// Calls `tell` with each key, the sums before and after a change of them, and the time of the change;
/// sends what it answers at that time. A step handles about `max_step_counts` counts.
pub fn follow<'scope, K: Data, V: Data, W: Clone + 'static>(
    sums: Arranged<'scope, TraceAgent<ValSpine<K, V, u64, i64>>>,
    name: &str,
    max_step_counts: usize,
    mut tell: impl FnMut(&K, &Sums<'_, V>, &Sums<'_, V>, u64) -> Option<W> + 'static,
) -> StreamVec<'scope, u64, W> {
    let mut trace = sums.trace;
    let stream = sums.stream;
    let scope = stream.scope();
    stream.unary_frontier::<CapacityContainerBuilder<Vec<W>>, _, _, _>(
        Pipeline,
        name,
        move |_, info| {
            let activator = scope.activator_for(info.address);
            // The changes lie in [lower, upper), what was before them in the trace up to lower.
            let mut upper = Antichain::from_elem(0);
            let mut pending: Option<Pending<K, V>> = None;
            move |(input, _), output| {
                let mut left = max_step_counts;
                loop {
                    // What comes meanwhile waits in the input.
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
                            before: trace
                                .batches_through(lower.borrow())
                                .expect("the trace is not compacted beyond what was told"),
                            changes,
                            handled: None,
                        });
                    }
                    let Some(some) = &mut pending else { break };
                    let mut told: BTreeMap<u64, Vec<W>> = BTreeMap::new();
                    let is_done = some.walk(&mut left, |key, before, after, time_ms| {
                        if let Some(datum) = tell(key, before, after, time_ms) {
                            told.entry(time_ms).or_default().push(datum);
                        }
                    });
                    for (time_ms, told) in told {
                        let at = some.earliest.delayed(&time_ms);
                        output.session(&at).give_iterator(told.into_iter());
                    }
                    if !is_done {
                        activator.activate();
                        return;
                    }
                    pending = None;
                }
                // Nothing before what comes next is told apart any more.
                trace.advance_upper(&mut upper);
                trace.set_logical_compaction(upper.borrow());
                trace.set_physical_compaction(upper.borrow());
            }
        },
    )
}

/// The changes of sums between two times, or what they were before.
pub type Batch<K, V> = Rc<OrdValBatch<Vector<((K, V), u64, i64)>>>;

/// Changes that came together, and what was before them.
struct Pending<K: Data, V: Data> {
    earliest: Capability<u64>,
    before: Vec<Batch<K, V>>,
    changes: Vec<Batch<K, V>>,
    /// The last key that was handled.
    handled: Option<K>,
}

impl<K: Data, V: Data> Pending<K, V> {
    /// Calls `each` with the next keys that change, the sums before and after, and the time, key by key, until `left`
    /// counts were handled. Returns whether every key was.
    fn walk(
        &mut self,
        left: &mut usize,
        mut each: impl FnMut(&K, &Sums<'_, V>, &Sums<'_, V>, u64),
    ) -> bool {
        let (mut known, ref held) = cursor_list(self.before.clone());
        let (mut changed, ref brought) = cursor_list(self.changes.clone());
        let (mut sums, mut next) = (Sums::<V>::new(), Sums::<V>::new());
        let mut steps: Vec<(u64, &V, i64)> = Vec::new();
        if let Some(handled) = &self.handled {
            changed.seek_key(brought, handled);
            if changed.get_key(brought) == Some(handled) {
                changed.step_key(brought);
            }
        }
        while let Some(key) = changed.get_key(brought) {
            if *left == 0 {
                return false;
            }
            sums.clear();
            known.seek_key(held, key);
            if known.get_key(held) == Some(key) {
                sums_of(&mut known, held, u64::MAX, &mut sums);
            }
            steps.clear();
            while let Some(value) = changed.get_val(brought) {
                changed.map_times(brought, |time_ms, diff| {
                    steps.push((*time_ms, value, *diff))
                });
                changed.step_val(brought);
            }
            // Stable: of one time they stay in the order of their values.
            steps.sort_by_key(|(time_ms, ..)| *time_ms);
            for at_once in steps.chunk_by(|a, b| a.0 == b.0) {
                add(&sums, at_once, &mut next);
                each(key, &sums, &next, at_once[0].0);
                std::mem::swap(&mut sums, &mut next);
            }
            *left = left.saturating_sub(sums.len() + steps.len());
            if *left == 0 {
                self.handled = Some(key.clone());
            }
            changed.step_key(brought);
        }
        true
    }
}

/// Adds the sums of the cursor's key as of `until_ms` to `sums`, by value.
pub fn sums_of<'a, K: Data, V: Data>(
    cursor: &mut CursorList<<Batch<K, V> as Navigable>::Cursor>,
    storage: &'a Vec<Batch<K, V>>,
    until_ms: u64,
    sums: &mut Sums<'a, V>,
) {
    while let Some(value) = cursor.get_val(storage) {
        let mut sum = 0;
        cursor.map_times(storage, |time_ms, diff| {
            if *time_ms <= until_ms {
                sum += diff;
            }
        });
        if sum != 0 {
            sums.push((value, sum));
        }
        cursor.step_val(storage);
    }
}

/// The sums and what is added to them, both ordered by value.
pub fn add<'a, V: Ord>(sums: &Sums<'a, V>, added: &[(u64, &'a V, i64)], next: &mut Sums<'a, V>) {
    next.clear();
    let mut sums = sums.iter().copied().peekable();
    for &(_, value, diff) in added {
        while let Some(sum) = sums.next_if(|(known, _)| *known < value) {
            next.push(sum);
        }
        let former = sums.next_if(|(known, _)| *known == value);
        let sum = former.map_or(0, |(_, sum)| sum) + diff;
        if sum != 0 {
            next.push((value, sum));
        }
    }
    next.extend(sums);
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
    /// Key, time, and the sums before and after.
    type Told = (u8, u64, Vec<(u8, i64)>, Vec<(u8, i64)>);

    /// What is told when the changes of each group come together, and time passes to the next group's.
    fn told(groups: Vec<(u64, Vec<Change>)>) -> Vec<(u64, Told)> {
        timely::execute_directly(move |worker| {
            let seen: Rc<RefCell<Vec<(u64, Told)>>> = Rc::default();
            let shown = seen.clone();
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, changes) = scope.new_input();
                let sums = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
                    changes,
                    Pipeline,
                    "sums",
                    ValBatcher::new,
                );
                let own = |sums: &Sums<'_, u8>| sums.iter().map(|(v, n)| (**v, *n)).collect();
                let told = follow(sums, "told", 4, move |key: &u8, before, after, time_ms| {
                    Some((*key, time_ms, own(before), own(after)))
                });
                let told = told.inspect_core(move |event| {
                    if let Ok((stamp, data)) = event {
                        let at = stamp.iter().next().copied().unwrap_or_default();
                        let data = data.iter().map(|told: &Told| (at, told.clone()));
                        shown.borrow_mut().extend(data);
                    }
                });
                (input, told.probe().0)
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

    fn sums_at(changes: &[Change], key: u8, until_ms: u64) -> Vec<(u8, i64)> {
        let mut sums: BTreeMap<u8, i64> = BTreeMap::new();
        for ((of, value), time_ms, diff) in changes {
            if *of == key && *time_ms < until_ms {
                *sums.entry(*value).or_default() += diff;
            }
        }
        sums.into_iter().filter(|(_, sum)| *sum != 0).collect()
    }

    proptest! {
        /// The oracle adds up what came before each time, and what came with it.
        #[test]
        fn every_change_is_told_once_at_its_time(
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
                let (before, after) = (sums_at(&all, key, at_ms), sums_at(&all, key, at_ms + 1));
                (before != after).then_some((at_ms, (key, at_ms, before, after)))
            });
            let mut told = told(groups);
            told.sort_unstable_by_key(|(_, (key, at_ms, ..))| (*key, *at_ms));
            prop_assert_eq!(told, expected.collect::<Vec<_>>());
        }
    }
}
