//! The top items of each key in a sliding span, and the top items and keys over all keys.
//!
//! ```text
//!  finals ─▶ sliding window ─┬─ changes of a key's counts ───────▶ reduce ─▶ its top items
//!                            └─ changes of counts over all keys ─▶ reduce ─▶ the top items, the top keys
//! ```
//!
//! A result is the top of the span that ends with a window. It depends only on the final results. It is emitted at each
//! window at which the top changes: because of new final results, or because counts leave the span. When all counts of
//! a key have left the span, an empty top of the key is emitted. Differential dataflow stores the current counts (its
//! *accumulations*).
//!
//! Invariant: the results do not depend on the number of workers, and do not depend on the progress from which a run
//! began.

use differential_dataflow::{
    AsCollection,
    operators::arrange::arrangement::arrange_core,
    trace::implementations::{ValBatcher, ValSpine},
};
use emostream_protocol::Window;
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{Concat, ToStream, probe, vec::Map},
};

use super::{
    is_of_this_run,
    key_numbers::KeyNumbers,
    reduce::{Accumulations, reduce_total_order},
    sliding::{Leader, SlidingContribution, SlidingSpan, sliding_window},
    tumbling::ClosedWindow,
};
use crate::aggregate::key::{Item, Key};

/// The key of the record of the top over all keys.
pub const ALL_KEYS: &str = "*";

/// The settings of [`sliding_top`].
pub struct TopParams {
    /// The sliding span.
    pub span: SlidingSpan,
    /// Maximum number of items and of keys in a result.
    pub top: usize,
    /// The final-until time at the start of the run.
    pub final_until_ms: u64,
    /// Maximum number of counts that an operator handles in a step.
    pub max_step_counts: usize,
    /// The probe of committed results.
    pub durable: probe::Handle<u64>,
}

/// A top that has changed. The greatest counts come first; equal counts are in the order of their items or keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopChange<K, I> {
    /// The top of a key.
    Key {
        /// The key.
        key: K,
        /// The last window of the span.
        window: Window,
        /// The top items; empty once the span contains no counts of the key.
        items: Vec<(I, u64)>,
    },
    /// The top over all keys.
    AllKeys {
        /// The last window of the span.
        window: Window,
        /// The top items.
        items: Vec<(I, u64)>,
        /// The keys with the greatest counts of all items together.
        keys: Vec<(K, u64)>,
    },
}

/// Returns the tops that change at each window.
///
/// `restored` are the counts in the span at the start of the run, and have the time 0. They are counted, but the tops
/// at time 0 are not emitted, since earlier runs have written these tops.
pub fn sliding_top<'scope, K: Key, I: Item>(
    finals: StreamVec<'scope, u64, ClosedWindow<K, I>>,
    restored: Vec<SlidingContribution<K, I>>,
    params: TopParams,
) -> StreamVec<'scope, u64, TopChange<K, I>> {
    let TopParams {
        span,
        top,
        final_until_ms,
        max_step_counts,
        durable,
    } = params;
    let restored = restored.into_iter().to_stream(finals.scope());
    let contribution = move |closed: ClosedWindow<K, I>| SlidingContribution {
        key: closed.key,
        from_ms: closed.window.last_ms(),
        until_ms: span.expires(closed.window).last_ms(),
        counts: closed.counts,
    };
    let contributions = finals.map(contribution).concat(restored);
    let numbers = KeyNumbers::default();
    let (by_key, over_all_keys) =
        sliding_window(contributions, numbers.clone(), max_step_counts, durable);
    // The numbers are valid only on this worker, so the changes must not be exchanged.
    let by_key = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        by_key,
        Pipeline,
        "counts in the span",
        ValBatcher::new,
    );
    let over_all_keys = over_all_keys
        .as_collection()
        .arrange_by_key_named("counts in the span over all keys");

    let tops = reduce_total_order(
        by_key,
        "top",
        max_step_counts,
        move |number, before, after, time_ms| {
            if !is_of_this_run(time_ms, final_until_ms) {
                return None;
            }
            let (before, after) = (top_items(before, top), top_items(after, top));
            (before != after).then(|| TopChange::Key {
                key: numbers.key(*number),
                window: span.size.window_of(time_ms),
                items: counts(after, |item| item),
            })
        },
    );
    let leaders = reduce_total_order(
        over_all_keys,
        "top over all keys",
        max_step_counts,
        move |(), before, after, time_ms| {
            if !is_of_this_run(time_ms, final_until_ms) {
                return None;
            }
            let (before, after) = (leaders(before, top), leaders(after, top));
            (before != after).then(|| TopChange::AllKeys {
                window: span.size.window_of(time_ms),
                items: counts(after.0, |item| item),
                keys: counts(after.1, K::clone),
            })
        },
    );
    tops.concat(leaders)
}

/// Items or keys with their counts, the greatest count first.
type Top<T> = Vec<(T, i64)>;

fn top_items<I: Item>(accumulations: &Accumulations<'_, I>, most: usize) -> Top<I> {
    let items = accumulations
        .iter()
        .map(|(item, count)| ((*item).clone(), *count));
    top(items.collect(), most)
}

/// Returns the top items and the top keys over all keys.
fn leaders<'a, K: Key, I: Item>(
    accumulations: &Accumulations<'a, Leader<K, I>>,
    most: usize,
) -> (Top<I>, Top<&'a K>) {
    let (mut items, mut keys) = (Vec::new(), Vec::new());
    for (leader, count) in accumulations {
        match leader {
            Leader::Item(item) => items.push((item.clone(), *count)),
            Leader::Key(key) => keys.push((key, *count)),
        }
    }
    (top(items, most), top(keys, most))
}

fn top<T: Ord>(mut counts: Top<T>, most: usize) -> Top<T> {
    let order = |a: &(T, i64), b: &(T, i64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0));
    if (1..counts.len()).contains(&most) {
        // The top counts are selected before they are sorted, since the other counts need not be sorted.
        counts.select_nth_unstable_by(most, order);
    }
    counts.truncate(most);
    counts.sort_unstable_by(order);
    counts
}

fn counts<T, U>(top: Top<T>, of: impl Fn(T) -> U) -> Vec<(U, u64)> {
    let top = top.into_iter();
    top.map(|(it, count)| (of(it), count.unsigned_abs()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::{cell::RefCell, rc::Rc};

    use emostream_protocol::WindowSize;
    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;

    fn size() -> WindowSize {
        WindowSize::from_ms(2000).unwrap()
    }

    fn closed(key: &str, start_ms: u64) -> ClosedWindow<String, u16> {
        ClosedWindow {
            key: key.to_owned(),
            window: size().window_of(start_ms),
            counts: (0..4).map(|item| (item, 1)).collect(),
            begins: false,
        }
    }

    /// A run does not write restored tops, since earlier runs have written them. If the progress was lost, the
    /// final-until time is 0 although there are restored tops.
    #[test]
    fn restored_tops_are_not_written_again_even_if_nothing_is_final() {
        timely::execute_directly(|worker| {
            let seen: Rc<RefCell<Vec<u64>>> = Rc::default();
            let (of_tops, durable) = (seen.clone(), probe::Handle::new());
            let mut input = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input::<ClosedWindow<String, u16>>();
                let restored = SlidingContribution {
                    key: "key".to_owned(),
                    from_ms: 0,
                    until_ms: 1999,
                    counts: [(0, 1)].into(),
                };
                let params = TopParams {
                    span: SlidingSpan {
                        size: size(),
                        span_ms: 2000,
                    },
                    top: 10,
                    final_until_ms: 0,
                    max_step_counts: 4,
                    durable: durable.clone(),
                };
                let tops = sliding_top(finals, vec![restored], params);
                let tops = tops.inspect(move |top| {
                    let (TopChange::Key { window, .. } | TopChange::AllKeys { window, .. }) = top;
                    of_tops.borrow_mut().push(window.last_ms());
                });
                tops.probe_with(&durable);
                input
            });
            input.advance_to(2000);
            while durable.less_than(&2000) {
                worker.step();
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            // Only two tops are emitted: the empty ones of the key and of all keys, once the counts have left the span.
            assert_eq!(*seen.borrow(), [1999, 1999]);
        });
    }

    /// All counts of a key leave the span, and the key has a new final result before the empty top is committed.
    /// Meanwhile other keys keep the operators busy for many steps.
    #[test]
    fn the_results_of_a_key_that_returns_come_in_order() {
        timely::execute_directly(|worker| {
            let durable = probe::Handle::new();
            let seen: Rc<RefCell<Vec<(String, u64, usize)>>> = Rc::default();
            let (of_key, probed) = (seen.clone(), durable.clone());
            let mut input = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input();
                let params = TopParams {
                    span: SlidingSpan {
                        size: size(),
                        span_ms: 6000,
                    },
                    top: 10,
                    final_until_ms: 0,
                    max_step_counts: 4,
                    durable: probed.clone(),
                };
                sliding_top(finals, Vec::new(), params)
                    .inspect(move |change: &TopChange<String, u16>| {
                        if let TopChange::Key { key, window, items } = change {
                            let shown = (key.clone(), window.start, items.len());
                            of_key.borrow_mut().push(shown);
                        }
                    })
                    .probe_with(&probed);
                input
            });
            // The other keys get lower numbers than `key`, so the operators handle them first.
            (0..30).for_each(|nth| input.send(closed(&format!("early-{nth}"), 0)));
            for (start_ms, key) in [(4000, Some("key")), (8000, None)] {
                input.advance_to(start_ms);
                while durable.less_than(&start_ms) {
                    worker.step();
                }
                key.iter().for_each(|key| input.send(closed(key, start_ms)));
            }
            (0..25).for_each(|nth| input.send(closed(&format!("late-{nth}"), 8000)));
            input.advance_to(10_000);
            while seen.borrow().iter().all(|it| it.1 < 8000) {
                worker.step();
            }
            // The counts of `key` leave the span.
            input.advance_to(12_000);
            for _ in 0..3 {
                worker.step();
            }
            input.send(closed("key", 12_000));
            input.advance_to(14_000);
            while durable.less_than(&14_000) {
                worker.step();
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            let seen = seen.borrow();
            let of_key = seen.iter().filter(|it| it.0 == "key");
            let of_key: Vec<(u64, usize)> = of_key.map(|it| (it.1, it.2)).collect();
            assert_eq!(of_key, [(4000, 4), (10_000, 0), (12_000, 4)]);
        });
    }
}
