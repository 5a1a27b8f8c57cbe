//! Counts events in tumbling windows, and emits the counts of each window once, when the window has closed.
//!
//! ```text
//!  partial tallies ──exchange(key)──▶ open windows ──frontier passes──▶ closed windows (finals)
//!                                          └──every live interval, if changed──▶ live tallies
//! ```
//!
//! Invariant: a window is emitted only when no partition can still send an event for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
    vec,
};

use differential_dataflow::hashable::Hashable;
use emostream_protocol::{Window, WindowSize};
use foldhash::HashMap;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use timely::{
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{Capability, InputCapability, generic::builder_rc::OperatorBuilder},
    },
    progress::frontier::MutableAntichain,
};

use super::{
    output::{Output, new_output},
    step::StepBudget,
};
use crate::{
    aggregate::{
        key::{Item, Key},
        pre_aggregator::PartialCount,
    },
    time::timers::Timers,
};

/// Minimum delay between a change and the live tally that contains it. A producer writes the events of one flush to all
/// partitions. Without the delay, a live tally would contain the events of some partitions at once, and the events of
/// the other partitions one interval later.
const LIVE_GATHER: Duration = Duration::from_millis(25);

/// Maximum number of counts that a worker emits in live tallies at once, so that live tallies need only a small part of
/// a core and do not delay final results. If more counts have changed, the keys take turns, and each key has live
/// tallies less often.
const MAX_LIVE_COUNTS: usize = 50_000;

/// A closed window of a key. It is cheap to clone, since several operators receive it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedWindow<K, I> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: Window,
    /// For each item of the key, its count, in the order of the items.
    pub counts: Arc<[(I, u64)]>,
    /// Whether the totals of the key begin at 0 with this window.
    pub begins: bool,
}

/// The counts of a key in a window that is still open.
#[derive(Debug)]
pub struct LiveTally<'a, K, I> {
    /// The key.
    pub key: &'a K,
    /// The window.
    pub window: Window,
    /// For each item of the key, its count, in the order of the items.
    pub counts: &'a [(I, u64)],
    /// The time at which the tally is emitted, Unix milliseconds.
    pub emitted_at_ms: u64,
}

/// The settings of [`tumbling_window`].
#[derive(Clone)]
pub struct WindowParams {
    /// The size of the windows.
    pub size: WindowSize,
    /// Minimum time between two live tallies of a key; `None` if there are no live tallies.
    pub live_interval: Option<Duration>,
    /// Maximum number of counts of closed windows that are sent in a step.
    pub max_step_counts: usize,
    /// The gauge of the number of open windows.
    pub open_windows: IntGauge,
    /// The timers of the worker.
    pub timers: Timers,
}

/// Returns the closed windows, and the results of `live` for the tallies of windows that are still open.
pub fn tumbling_window<'scope, K: Key, I: Item, L: Clone + 'static>(
    tallies: StreamVec<'scope, u64, PartialCount<K, I>>,
    params: WindowParams,
    live: impl Fn(LiveTally<'_, K, I>) -> L + 'static,
) -> (
    StreamVec<'scope, u64, ClosedWindow<K, I>>,
    StreamVec<'scope, u64, L>,
) {
    let scope = tallies.scope();
    let mut builder = OperatorBuilder::new("tumbling window".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    let by_key = Exchange::new(|tally: &PartialCount<K, I>| tally.key.hashed());
    let mut input = builder.new_input(tallies, by_key);
    let (mut finals, finals_stream) = new_output(&mut builder);
    let (mut live_output, live_stream) = new_output(&mut builder);
    builder.build(move |_| {
        let mut open = OpenWindows::new(params);
        move |frontiers| {
            let now = open.params.timers.now();
            input.for_each_stamp(|at, data| {
                for tally in data.flat_map(|data| data.drain(..)) {
                    open.add(&at, tally);
                    open.live.on_change(now);
                }
            });
            if open.close(&frontiers[0], &mut finals.activate()) {
                activator.activate();
            }
            open.params.open_windows.set(open.windows.len() as i64);
            open.emit_live(now, &live, &mut live_output.activate());
            if let Some(due) = open.live.next() {
                open.params.timers.at(due, activator.clone());
            }
        }
    });
    (finals_stream, live_stream)
}

struct OpenWindows<K, I> {
    params: WindowParams,
    /// The open windows. The key is the last instant of the window.
    windows: BTreeMap<u64, OpenWindow<K, I>>,
    closing: Option<ClosingWindow<K, I>>,
    live: LiveThrottle,
}

/// A window that has closed, and those of its keys whose counts were not emitted yet.
struct ClosingWindow<K, I> {
    window: Window,
    finals: Capability<u64>,
    /// The keys in ascending order: the operators downstream sort by key, which is faster for sorted input.
    keys: vec::IntoIter<(K, OpenKey<I>)>,
}

struct OpenWindow<K, I> {
    finals: Capability<u64>,
    live: Capability<u64>,
    keys: HashMap<K, OpenKey<I>>,
    /// The keys that have changed since their last live tally. The first key has waited longest.
    changed: VecDeque<K>,
}

struct OpenKey<I> {
    /// The counts, sorted by item, since the operators downstream need them in this order. A key usually has a few
    /// dozen items, so insertions into a sorted list are fast.
    counts: Vec<(I, u64)>,
    /// Whether the key is among [`OpenWindow::changed`].
    is_changed: bool,
}

impl<I> Default for OpenKey<I> {
    fn default() -> OpenKey<I> {
        OpenKey {
            counts: Vec::new(),
            is_changed: false,
        }
    }
}

impl<K: Key, I: Item> OpenWindow<K, I> {
    fn add(&mut self, key: K, item: I, count: u64, is_live: bool) {
        let open = self.keys.entry(key.clone()).or_default();
        if is_live && !open.is_changed {
            open.is_changed = true;
            self.changed.push_back(key);
        }
        let counts = &mut open.counts;
        match counts.binary_search_by(|(known, _)| known.cmp(&item)) {
            Ok(at) => counts[at].1 += count,
            Err(at) => counts.insert(at, (item, count)),
        }
    }
}

impl<K: Key, I: Item> OpenWindows<K, I> {
    fn new(params: WindowParams) -> OpenWindows<K, I> {
        OpenWindows {
            live: LiveThrottle::new(params.live_interval),
            windows: BTreeMap::new(),
            closing: None,
            params,
        }
    }

    fn add(&mut self, at: &InputCapability<u64>, tally: PartialCount<K, I>) {
        let window = self.windows.entry(tally.time_ms);
        let window = window.or_insert_with(|| OpenWindow {
            finals: at.delayed(&tally.time_ms, 0),
            live: at.delayed(&tally.time_ms, 1),
            keys: HashMap::default(),
            changed: VecDeque::new(),
        });
        let is_live = self.params.live_interval.is_some();
        window.add(tally.key, tally.item, tally.count, is_live);
    }

    /// Emits the counts of windows that the frontier has passed, the earliest window first, until the budget of the
    /// step is spent. Returns whether another step must continue the work.
    ///
    /// An empty frontier closes no window: it means that the sources have ended, not that windows are complete.
    fn close(
        &mut self,
        frontier: &MutableAntichain<u64>,
        finals: &mut Output<'_, ClosedWindow<K, I>>,
    ) -> bool {
        let Some(&frontier_ms) = frontier.frontier().first() else {
            return false;
        };
        let mut budget = StepBudget::new(self.params.max_step_counts);
        loop {
            let next = self.closing.take();
            let Some(mut closing) = next.or_else(|| self.next_closing(frontier_ms)) else {
                return false;
            };
            let mut session = finals.session(&closing.finals);
            while !budget.is_spent()
                && let Some((key, OpenKey { counts, .. })) = closing.keys.next()
            {
                budget.spend(counts.len());
                session.give(ClosedWindow {
                    key,
                    window: closing.window,
                    counts: counts.into(),
                    begins: false,
                });
            }
            drop(session);
            if budget.is_spent() {
                self.closing = Some(closing);
                return true;
            }
        }
    }

    /// Removes the earliest window, if the frontier has passed it.
    fn next_closing(&mut self, frontier_ms: u64) -> Option<ClosingWindow<K, I>> {
        let first = self.windows.first_entry();
        let (time_ms, window) = first.filter(|w| *w.key() < frontier_ms)?.remove_entry();
        let mut keys: Vec<(K, OpenKey<I>)> = window.keys.into_iter().collect();
        keys.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Some(ClosingWindow {
            window: self.params.size.window_of(time_ms),
            finals: window.finals,
            keys: keys.into_iter(),
        })
    }

    fn emit_live<L: Clone + 'static>(
        &mut self,
        now: Instant,
        live: impl Fn(LiveTally<'_, K, I>) -> L,
        output: &mut Output<'_, L>,
    ) {
        if !self.live.is_due(now) {
            return;
        }
        let emitted_at_ms = self.params.timers.unix_time().as_millis() as u64;
        let mut budget = StepBudget::new(MAX_LIVE_COUNTS);
        for (time_ms, open) in &mut self.windows {
            let window = self.params.size.window_of(*time_ms);
            let mut session = output.session(&open.live);
            while !budget.is_spent()
                && let Some(key) = open.changed.pop_front()
            {
                if let Some(OpenKey { counts, is_changed }) = open.keys.get_mut::<K>(&key) {
                    *is_changed = false;
                    budget.spend(counts.len());
                    session.give(live(LiveTally {
                        key: &key,
                        window,
                        counts,
                        emitted_at_ms,
                    }));
                }
            }
        }
        if budget.is_spent() {
            self.live.on_change(now);
        }
    }
}

/// Determines when live tallies are due: soon after a change, but at most once within an interval.
struct LiveThrottle {
    /// The interval; `None` if there are no live tallies.
    interval: Option<Duration>,
    last: Option<Instant>,
    due: Option<Instant>,
    /// Whether there is a timer for `due`.
    is_scheduled: bool,
}

impl LiveThrottle {
    fn new(interval: Option<Duration>) -> LiveThrottle {
        LiveThrottle {
            interval,
            last: None,
            due: None,
            is_scheduled: false,
        }
    }

    fn on_change(&mut self, now: Instant) {
        let Some(interval) = self.interval else {
            return;
        };
        let earliest = self.last.map_or(now, |last| last + interval);
        self.due.get_or_insert(earliest.max(now + LIVE_GATHER));
    }

    /// Whether live tallies are due. If they are, the next interval begins.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            *self = LiveThrottle {
                last: Some(now),
                ..LiveThrottle::new(self.interval)
            };
        }
        is_due
    }

    /// Returns the time at which the next live tallies are due, and `None` if this time was returned before. A timer
    /// cannot be cancelled, so there must be only one timer for each time.
    fn next(&mut self) -> Option<Instant> {
        let due = self.due.filter(|_| !self.is_scheduled)?;
        self.is_scheduled = true;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::{cell::RefCell, collections::HashSet, rc::Rc};

    use timely::dataflow::operators::{inspect::Inspect, vec::Input};

    use super::*;
    use crate::time::timers::MachineClock;

    const STEP_COUNTS: usize = 4;

    fn params(live_interval: Duration, timers: Timers) -> WindowParams {
        WindowParams {
            size: WindowSize::from_ms(2000).unwrap(),
            live_interval: Some(live_interval),
            max_step_counts: STEP_COUNTS,
            open_windows: IntGauge::new("open", "open").unwrap(),
            timers,
        }
    }

    /// Returns partial counts of the key number `key` in the first window: a count of 1 for each of the first `items`
    /// items.
    fn tallies(key: usize, items: u16) -> Vec<PartialCount<String, u16>> {
        let tally = |item| PartialCount {
            time_ms: 1999,
            key: format!("key-{key}"),
            item,
            count: 1,
        };
        (0..items).map(tally).collect()
    }

    #[test]
    fn with_too_many_counts_keys_take_turns_and_none_is_left_out() {
        const ITEMS: usize = 1000;
        const KEYS: usize = 2 * MAX_LIVE_COUNTS / ITEMS + 1;
        timely::execute_directly(move |worker| {
            let timers = Timers::new(Arc::new(MachineClock::default()));
            let params = params(Duration::from_millis(1), timers.clone());
            let emissions: Rc<RefCell<Vec<Vec<String>>>> = Rc::default();
            let seen = emissions.clone();
            let mut input = worker.dataflow(|scope| {
                let (input, tallies) = scope.new_input();
                let (_, live) =
                    tumbling_window(tallies, params, |live: LiveTally<'_, String, u16>| {
                        live.key.clone()
                    });
                live.inspect(move |key: &String| {
                    seen.borrow_mut().last_mut().unwrap().push(key.clone());
                });
                input
            });
            for key in 0..KEYS {
                input.send_batch(&mut tallies(key, ITEMS as u16));
            }
            input.flush();
            let shown = |emissions: &[Vec<String>]| emissions.iter().map(Vec::len).sum::<usize>();
            while shown(&emissions.borrow()) < KEYS {
                emissions.borrow_mut().push(Vec::new());
                timers.fire_due();
                worker.step();
            }
            let emissions = emissions.borrow();
            let at_once = emissions.iter().map(Vec::len).filter(|it| *it > 0);
            const MOST: usize = MAX_LIVE_COUNTS / ITEMS;
            assert_eq!(at_once.collect::<Vec<_>>(), [MOST, MOST, 1]);
            let keys: HashSet<&String> = emissions.iter().flatten().collect();
            assert_eq!(keys.len(), KEYS);
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }

    #[test]
    fn a_close_of_many_counts_takes_several_steps_and_leaves_none_out() {
        const ITEMS: usize = 3;
        const KEYS: usize = 10 * STEP_COUNTS;
        timely::execute_directly(move |worker| {
            let timers = Timers::new(Arc::new(MachineClock::default()));
            let params = params(Duration::from_secs(600), timers);
            let closed: Rc<RefCell<Vec<ClosedWindow<String, u16>>>> = Rc::default();
            let seen = closed.clone();
            let mut input = worker.dataflow(|scope| {
                let (input, tallies) = scope.new_input();
                let (finals, _) = tumbling_window(tallies, params, |_| ());
                finals.inspect(move |closed| seen.borrow_mut().push(closed.clone()));
                input
            });
            for key in 0..KEYS {
                input.send_batch(&mut tallies(key, ITEMS as u16));
            }
            input.advance_to(2000);
            input.flush();
            let (mut keys, mut steps) = (HashSet::new(), 0);
            while keys.len() < KEYS {
                worker.step();
                let closed = closed.take();
                let counts: usize = closed.iter().map(|closed| closed.counts.len()).sum();
                assert!(counts < STEP_COUNTS + ITEMS, "{counts} counts in a step");
                keys.extend(closed.into_iter().map(|closed| closed.key));
                steps += 1;
                assert!(steps < 1000, "it stands still");
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }
}
