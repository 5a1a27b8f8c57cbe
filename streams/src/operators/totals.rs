//! The totals of each key, which differential dataflow stores.
//!
//! ```text
//!  finals ─▶ register ─▶ arranged accumulations ─┬─ of a small key ──at each change──▶ its record
//!                └▶ removed keys                 └─ of a large key ─▶ schedule ──when due──▶ its record
//! ```
//!
//! A final result adds its counts as differences at the last instant of its window. Differential adds them up to
//! *accumulations*, so the accumulations as of a window are the totals as of that window. Differential consolidates the
//! differences before the frontier, so there is one count in memory for each key and item.
//!
//! A key is *large* if it has more than `small_items` items, and *small* otherwise. The record of a small key is
//! written at each change. The record of a large key is written only when [`crate::operators::schedule`] decides that
//! it is due, and the accumulations of the key are read only then. `totals_writer.rs` stores the state of the keys
//! besides the accumulations, and `totals_close.rs` closes windows.
//!
//! A large key may have no final result in the window in which its record is due. So the operator holds a capability
//! that follows the frontier of its input, with which it can send such a record.
//!
//! Invariants:
//! - A totals record contains all final results of its key up to its window, and is written after them.
//! - Before a window can be committed, the sink is notified of the oldest final result that is in no totals record as
//!   of that window.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use differential_dataflow::{
    operators::arrange::arrangement::arrange_core,
    trace::{
        SpanOf,
        implementations::{ValBatcher, ValSpine},
    },
};
use emostream_protocol::Window;
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        Stream, StreamVec,
        channels::pact::Pipeline,
        operators::{OkErr, ToStream, generic::Operator, probe},
    },
    progress::Antichain,
};

use super::{
    key_numbers::KeyNumbers,
    registry::{Registered, Shared, TotalsTrace, register},
    schedule::{Change, ScheduleParams},
    step::StepBudget,
    totals_close::{PendingClose, end_of},
    totals_writer::{TotalsOutput, TotalsWriter},
    tumbling::ClosedWindow,
};
use crate::{
    aggregate::key::{Item, Key},
    sink::result::UnwrittenSince,
};

/// The counts of a key since its totals last began at 0, as of a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyTotals<K, I> {
    /// The key.
    pub key: K,
    /// The last window that changed the totals.
    pub window: Window,
    /// The number of backward resets before the last window that changed the totals.
    pub resets: u64,
    /// For each item, its count, in the order of the items.
    pub counts: Vec<(I, u64)>,
    /// The counts of items that this build cannot name, as they were restored.
    pub unnamed: Vec<UnnamedCount>,
}

/// The count of an item that this build does not know. Another build, which knows the item, has written the count to
/// the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnnamedCount {
    /// The name of the item in records.
    pub name: Box<str>,
    /// The number of events.
    pub count: u64,
}

/// The totals of a key as of the stored final-until time, restored from the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredTotals<K, I> {
    /// The key.
    pub key: K,
    /// The counts of the items.
    pub counts: Vec<(I, u64)>,
    /// The counts of items that this build cannot name. Each record of the key repeats these counts. Otherwise the
    /// record would lose events that another build has counted.
    pub unnamed: Vec<UnnamedCount>,
    /// The range of the final results that these totals include and that the key's record does not include; `None` if
    /// there are none.
    pub change: Option<Change>,
    /// The start of the window of the key's last final result, Unix milliseconds.
    pub last_ms: u64,
    /// The key is removed only when a window is closed that begins later than this time, Unix milliseconds. At the
    /// close before that, the counts of the key leave a sliding span, and the record of its empty top must be written
    /// before the removal.
    pub kept_until_ms: u64,
}

/// The settings of [`totals`].
#[derive(Debug, Clone, Copy)]
pub struct TotalsParams {
    /// The settings of the schedule of records.
    pub schedule: ScheduleParams,
    /// If a key has no final result for longer than this, its totals begin at 0. Milliseconds; at least the longest
    /// sliding span.
    pub retention_ms: u64,
    /// The final-until time at the start of the run.
    pub final_until_ms: u64,
    /// The number of backward resets so far.
    pub resets: u64,
    /// Maximum number of counts that an operator handles in a step.
    pub max_step_counts: usize,
}

/// The outputs of [`totals`].
pub struct Totals<'scope, K: Key, I: Item> {
    /// All final results. A final result is marked if the totals of its key begin at 0 with it.
    pub finals: StreamVec<'scope, u64, ClosedWindow<K, I>>,
    /// The totals that are written at each window.
    pub records: StreamVec<'scope, u64, KeyTotals<K, I>>,
    /// The keys that are removed from all tables, each with the start of the window at whose close it is removed.
    pub removed: StreamVec<'scope, u64, (K, u64)>,
    /// The oldest final result of this worker that is in no totals record.
    pub unwritten: StreamVec<'scope, u64, UnwrittenSince>,
}

/// Computes the totals of `finals`.
///
/// `restored` are the totals as of the start of the run. The counts of `finals` are added to them. A restored record
/// that is complete is not written again. `durable` is the probe of committed results.
pub fn totals<'scope, K: Key, I: Item>(
    finals: StreamVec<'scope, u64, ClosedWindow<K, I>>,
    restored: Vec<RestoredTotals<K, I>>,
    params: TotalsParams,
    durable: probe::Handle<u64>,
) -> Totals<'scope, K, I> {
    let scope = finals.scope();
    let restored = restored.into_iter().to_stream(scope);
    let (numbers, shared) = (KeyNumbers::default(), Rc::<RefCell<Shared<I>>>::default());
    let Registered {
        finals,
        changes,
        removed,
    } = register(
        finals,
        restored,
        numbers.clone(),
        shared.clone(),
        params,
        durable,
    );
    // The numbers are valid only on this worker, so the changes must not be exchanged.
    let arranged = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        changes,
        Pipeline,
        "arranged totals",
        ValBatcher::new,
    );
    shared.borrow_mut().trace = Some(arranged.trace);
    let writer = TotalsWriter::new(params, numbers, shared, scope.index(), scope.peers());
    let (records, unwritten) = write(arranged.stream, writer).ok_err(|output| output);
    Totals {
        finals,
        records,
        removed,
        unwritten,
    }
}

/// Sends the records of each window at the time of the window, since the sink commits by time.
fn write<'scope, K: Key, I: Item>(
    changes: Stream<'scope, u64, Vec<SpanOf<TotalsTrace<I>>>>,
    mut writer: TotalsWriter<K, I>,
) -> StreamVec<'scope, u64, TotalsOutput<K, I>> {
    let scope = changes.scope();
    changes.unary_frontier::<CapacityContainerBuilder<Vec<_>>, _, _, _>(
        Pipeline,
        "totals",
        move |capability, info| {
            let activator = scope.activator_for(info.address);
            // The operator has closed all windows up to the time of its capability.
            let mut held = Some(capability);
            // The times of the changes are in [lower, upper). The batches of the trace up to `lower` contain the
            // accumulations before these changes.
            let mut upper = Antichain::from_elem(0);
            let mut pending: Option<PendingClose<I>> = None;
            move |(input, frontier), output| {
                writer.renumber();
                let mut budget = StepBudget::new(writer.params.max_step_counts);
                loop {
                    if pending.is_none() {
                        let lower = upper.clone();
                        let mut changes = Vec::new();
                        input.for_each(|_, spans| {
                            for span in spans.drain(..) {
                                upper.clone_from(span.upper());
                                changes.extend(span.inner);
                            }
                        });
                        let known = [upper.borrow(), frontier.frontier()];
                        let until_ms = known.iter().filter_map(|it| it.first().copied()).max();
                        // An empty frontier means that the sources have ended, and not that all windows are complete.
                        // So only the changes that have arrived are handled.
                        let until_ms = until_ms.unwrap_or_else(|| end_of(&changes));
                        let through = if changes.is_empty() { &upper } else { &lower };
                        if writer.has_work(until_ms) || !changes.is_empty() {
                            let before = writer.before(through);
                            pending = Some(PendingClose::new(before, changes, until_ms));
                        } else if let Some(held) = &mut held
                            && *held.time() < until_ms
                        {
                            held.downgrade(&until_ms);
                        }
                    }
                    let (Some(some), Some(held)) = (&mut pending, &held) else {
                        break;
                    };
                    let mut outputs = BTreeMap::new();
                    let is_done = some.run(&mut writer, *held.time(), &mut budget, &mut outputs);
                    for (time_ms, outputs) in outputs {
                        let at = held.delayed(&time_ms);
                        output.session(&at).give_iterator(outputs.into_iter());
                    }
                    if !is_done {
                        activator.activate();
                        return;
                    }
                    pending = None;
                }
                if frontier.frontier().is_empty() {
                    held = None;
                }
                writer.compact_before(&mut upper);
            }
        },
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use emostream_protocol::{ResultOrder, WindowSize};
    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;
    use crate::operators::schedule::TotalsPace;

    const SIZE_MS: u64 = 2_000;

    fn params() -> TotalsParams {
        TotalsParams {
            schedule: ScheduleParams {
                pace: TotalsPace::default(),
                size: WindowSize::from_ms(SIZE_MS).unwrap(),
                finals_kept_ms: None,
                record_bytes: |items| items,
            },
            retention_ms: u64::MAX,
            final_until_ms: 0,
            resets: 0,
            max_step_counts: 4,
        }
    }

    fn closed(key: usize, start_ms: u64, items: u16) -> ClosedWindow<String, u16> {
        ClosedWindow {
            key: format!("key-{key}"),
            window: params().schedule.size.window_of(start_ms),
            counts: (0..items).map(|item| (item, 2)).collect(),
            begins: false,
        }
    }

    /// Another key may get the number of a removed key, and must not inherit the state of the removed key.
    #[test]
    fn no_state_of_a_key_is_left_after_its_number_was_freed() {
        let numbers = KeyNumbers::<String>::default();
        let shared = Rc::<RefCell<Shared<u16>>>::default();
        let mut writer = TotalsWriter::new(params(), numbers.clone(), shared.clone(), 0, 1);
        let key = "key".to_owned();
        let former = numbers.number(&key);
        let last = params().schedule.size.window_of(SIZE_MS);
        let change = Change {
            first: ResultOrder::new(0, last),
            since_ms: last.start,
            last,
            last_resets: 0,
        };
        let unnamed = UnnamedCount {
            name: "?".into(),
            count: 1,
        };
        let restored = (former, vec![unnamed], Some(change));
        shared.borrow_mut().restored.push(restored);
        assert!(writer.has_work(0) && writer.schedule.holds(former));
        numbers.retire(former, 4_000);
        let number = numbers.number(&key);
        shared.borrow_mut().replaced.push((number, former));
        writer.renumber();
        assert!(writer.is_ordered(number));
        numbers.mark_empty(former, 6_000);
        assert_eq!(numbers.free_retired(6_000), [], "not committed");
        let freed = numbers.free_retired(6_001);
        assert_eq!(freed, [former]);
        shared.borrow_mut().freed = freed;
        writer.renumber();
        assert!(!writer.schedule.holds(former));
        assert!(writer.unnamed(former).is_empty());
        assert_eq!(*writer.items(former), 0);
        assert!(!writer.is_ordered(number));
    }

    /// A key is large in one window. In a later window its totals begin at 0 again, and the key is small. Both windows
    /// are closed together, and other keys keep the operator busy for several steps.
    #[test]
    fn a_record_that_is_due_is_written_before_the_totals_of_its_key_begin_again() {
        timely::execute_directly(|worker| {
            let records = Rc::<RefCell<Vec<u64>>>::default();
            let seen = records.clone();
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input();
                let mut params = TotalsParams {
                    retention_ms: 10_000,
                    ..params()
                };
                params.schedule.pace = TotalsPace {
                    small_items: 2,
                    period_ms: 8_000,
                    ..TotalsPace::default()
                };
                let totals = totals(finals, Vec::new(), params, probe::Handle::new());
                let records = totals.records.inspect(move |record| {
                    if record.key == "key-0" {
                        seen.borrow_mut().push(record.window.start);
                    }
                });
                (input, records.probe().0)
            });
            // The results of a window have the time of its last instant.
            input.advance_to(3_999);
            input.send(closed(0, 2_000, 3));
            input.advance_to(15_999);
            (0..20).for_each(|key| input.send(closed(key, 14_000, 1)));
            input.advance_to(16_000);
            while probe.less_than(&16_000) {
                worker.step();
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            assert_eq!(*records.borrow(), [2_000, 14_000]);
        });
    }

    #[test]
    fn the_records_of_many_keys_are_written_in_several_steps_and_none_is_left_out() {
        const KEYS: usize = 40;
        const ITEMS: u16 = 6;
        timely::execute_directly(move |worker| {
            let written = Rc::<RefCell<Vec<KeyTotals<String, u16>>>>::default();
            let seen = written.clone();
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input();
                let totals = totals(finals, Vec::new(), params(), probe::Handle::new());
                let records = totals.records;
                let records = records.inspect(move |record| seen.borrow_mut().push(record.clone()));
                (input, records.probe().0)
            });
            for window in 1..3 {
                let start_ms = window * SIZE_MS;
                input.advance_to(start_ms);
                (0..KEYS).for_each(|key| input.send(closed(key, start_ms, ITEMS)));
                input.advance_to(start_ms + SIZE_MS);
                let mut records = 0;
                while probe.less_than(&(start_ms + SIZE_MS)) {
                    worker.step();
                    let step = written.take();
                    // Each key has more counts than the budget of a step, so a step writes at most one record.
                    assert!(step.len() <= 1, "{} records in a step", step.len());
                    let counts = step.iter().flat_map(|record| &record.counts);
                    assert!(counts.clone().all(|(_, count)| *count == 2 * window));
                    assert_eq!(counts.count(), step.len() * usize::from(ITEMS));
                    records += step.len();
                }
                assert_eq!(records, KEYS);
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }
}
