//! Counts in tumbling windows and emits each window once, when it has closed.
//!
//! ```text
//!  tallies ──exchange(room)──▶ open windows ──frontier passes──▶ finals
//!                                   └──every live interval, where changed──▶ live
//! ```
//!
//! Invariant: a window leaves only when no partition can still send a reaction for it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
    vec,
};

use differential_dataflow::hashable::Hashable;
use emostream_model::{Emoji, Room, Window, WindowRecord, WindowSize, compress, sort_counts};
use foldhash::HashMap;
use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{
            Capability,
            generic::{OutputBuilder, OutputBuilderSession, builder_rc::OperatorBuilder},
        },
    },
    progress::frontier::MutableAntichain,
};

use crate::timers::Timers;

/// A live tally waits this long for the other partitions' part of the same flush, so that a crowd's
/// tap is shown whole at once rather than a quarter now and the rest an interval later.
const GATHER: Duration = Duration::from_millis(25);

/// How many counts a worker emits as live tallies at once: about a tenth of a core at the default
/// interval. With more of them rooms take turns, and each is shown less often: finals go first.
const MOST_LIVE_COUNTS: usize = 50_000;

/// Reactions of one room, emoji and window, counted where they were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialTally {
    /// The last instant of the window.
    pub time_ms: u64,
    /// Which room.
    pub room: Room,
    /// Which emoji.
    pub emoji: Emoji,
    /// How many.
    pub count: u64,
}

/// A window of a room that has closed. Cheap to clone: it goes several ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Which room.
    pub room: Room,
    /// Which window.
    pub window: Window,
    /// How many of each emoji, by [`Emoji::id`].
    pub counts: Arc<[(Emoji, u64)]>,
    /// Whether the totals of the room begin at 0 with it.
    pub begins: bool,
}

impl Closed {
    /// The record of it: a final.
    pub fn record(&self, swarm_size: u64) -> WindowRecord {
        record(self.room.clone(), &self.counts, self.window, swarm_size)
    }
}

/// What tumbling goes by.
#[derive(Clone)]
pub struct Tumble {
    /// The size of the windows.
    pub size: WindowSize,
    /// How many emojis make a swarm.
    pub swarm_size: u64,
    /// How often live tallies are emitted at most.
    pub live: Duration,
    /// How many counts of closed windows are sent in a step.
    pub max_step_counts: usize,
    /// Shows how many windows are open.
    pub open_windows: IntGauge,
    /// The worker's.
    pub timers: Timers,
}

type Output<'a, D> = OutputBuilderSession<'a, u64, CapacityContainerBuilder<Vec<D>>>;

/// Finals, and live tallies of windows that are still open.
pub fn tumble<'scope>(
    tallies: StreamVec<'scope, u64, PartialTally>,
    rules: Tumble,
) -> (
    StreamVec<'scope, u64, Closed>,
    StreamVec<'scope, u64, WindowRecord>,
) {
    let scope = tallies.scope();
    let mut builder = OperatorBuilder::new("tumble".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    let by_room = Exchange::new(|tally: &PartialTally| tally.room.hashed());
    let mut input = builder.new_input(tallies, by_room);
    let (finals, finals_stream) = builder.new_output();
    let (live, live_stream) = builder.new_output();
    let (mut finals, mut live) = (OutputBuilder::from(finals), OutputBuilder::from(live));
    builder.build(move |_| {
        let mut open = OpenWindows::new(rules);
        move |frontiers| {
            let now = open.rules.timers.now();
            input.for_each_stamp(|cap, data| {
                for tally in data.flat_map(|data| data.drain(..)) {
                    let window = open
                        .windows
                        .entry(tally.time_ms)
                        .or_insert_with(|| OpenWindow {
                            finals: cap.delayed(&tally.time_ms, 0),
                            live: cap.delayed(&tally.time_ms, 1),
                            rooms: HashMap::default(),
                            changed: VecDeque::new(),
                        });
                    window.add(tally);
                    open.pace.changed(now);
                }
            });
            if open.close(&frontiers[0], &mut finals.activate()) {
                activator.activate();
            }
            let windows = open.windows.len() as i64;
            open.rules.open_windows.set(windows);
            open.emit_live(now, &mut live.activate());
            if let Some(due) = open.pace.next() {
                open.rules.timers.at(due, activator.clone());
            }
        }
    });
    (finals_stream, live_stream)
}

struct OpenWindows {
    rules: Tumble,
    /// By their last instants.
    windows: BTreeMap<u64, OpenWindow>,
    closing: Option<ClosingWindow>,
    pace: Pace,
}

/// A window that has closed, with the rooms that were not emitted yet.
struct ClosingWindow {
    window: Window,
    finals: Capability<u64>,
    /// In the order of names, for what follows sorts by them.
    rooms: vec::IntoIter<(Room, OpenRoom)>,
}

struct OpenWindow {
    finals: Capability<u64>,
    live: Capability<u64>,
    rooms: HashMap<Room, OpenRoom>,
    /// The rooms that changed since their last live tally, the one that waits longest first.
    changed: VecDeque<Room>,
}

#[derive(Default)]
struct OpenRoom {
    /// By [`Emoji::id`], for what follows sorts by it. A room has some dozen; with all 1,900 an insertion moves 30 KB
    /// at most.
    counts: Vec<(Emoji, u64)>,
    changed: bool,
}

impl OpenWindow {
    fn add(&mut self, tally: PartialTally) {
        let name = tally.room.clone();
        let room = self.rooms.entry(tally.room).or_default();
        if !room.changed {
            room.changed = true;
            self.changed.push_back(name);
        }
        let counts = &mut room.counts;
        match counts.binary_search_by_key(&tally.emoji.id(), |(emoji, _)| emoji.id()) {
            Ok(at) => counts[at].1 += tally.count,
            Err(at) => counts.insert(at, (tally.emoji, tally.count)),
        }
    }
}

impl OpenWindows {
    fn new(rules: Tumble) -> OpenWindows {
        OpenWindows {
            pace: Pace::new(rules.live),
            windows: BTreeMap::new(),
            closing: None,
            rules,
        }
    }

    /// Emits some of the windows that the frontier has passed, the earliest first. Returns whether more is left for
    /// another step.
    ///
    /// An empty frontier closes none: it means that the sources are gone, not that they are complete.
    fn close(&mut self, frontier: &MutableAntichain<u64>, finals: &mut Output<'_, Closed>) -> bool {
        let Some(&frontier_ms) = frontier.frontier().first() else {
            return false;
        };
        let mut left = self.rules.max_step_counts;
        loop {
            let next = self.closing.take();
            let Some(mut closing) = next.or_else(|| self.next_closing(frontier_ms)) else {
                return false;
            };
            let mut session = finals.session(&closing.finals);
            while left > 0
                && let Some((room, OpenRoom { counts, .. })) = closing.rooms.next()
            {
                left = left.saturating_sub(counts.len());
                session.give(Closed {
                    room,
                    window: closing.window,
                    counts: counts.into(),
                    begins: false,
                });
            }
            drop(session);
            if left == 0 {
                self.closing = Some(closing);
                return true;
            }
        }
    }

    /// Takes the earliest window, if the frontier has passed it.
    fn next_closing(&mut self, frontier_ms: u64) -> Option<ClosingWindow> {
        let first = self.windows.first_entry();
        let (time_ms, window) = first.filter(|w| *w.key() < frontier_ms)?.remove_entry();
        let mut rooms: Vec<(Room, OpenRoom)> = window.rooms.into_iter().collect();
        rooms.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Some(ClosingWindow {
            window: self.rules.size.window_of(time_ms),
            finals: window.finals,
            rooms: rooms.into_iter(),
        })
    }

    fn emit_live(&mut self, now: Instant, live: &mut Output<'_, WindowRecord>) {
        if !self.pace.due(now) {
            return;
        }
        let emitted_at = self.rules.timers.unix_time().as_millis() as u64;
        let mut left = MOST_LIVE_COUNTS;
        for (time_ms, window) in &mut self.windows {
            let mut session = live.session(&window.live);
            while left > 0
                && let Some(room) = window.changed.pop_front()
            {
                if let Some(counted) = window.rooms.get_mut(&room) {
                    counted.changed = false;
                    left = left.saturating_sub(counted.counts.len());
                    let window = self.rules.size.window_of(*time_ms);
                    let swarm_size = self.rules.swarm_size;
                    session.give(WindowRecord {
                        emitted_at: Some(emitted_at),
                        ..record(room, &counted.counts, window, swarm_size)
                    });
                }
            }
        }
        if left == 0 {
            self.pace.changed(now);
        }
    }
}

/// The record of what was counted: the most frequent emoji first, as swarms and loose ones.
fn record(room: Room, counts: &[(Emoji, u64)], window: Window, swarm_size: u64) -> WindowRecord {
    let tally = |(emoji, count): &(Emoji, u64)| compress(*emoji, *count, swarm_size);
    let mut counts: Vec<_> = counts.iter().map(tally).collect();
    sort_counts(&mut counts, |tally| (tally.count, tally.emoji));
    WindowRecord {
        room,
        window,
        emitted_at: None,
        total: counts.iter().map(|tally| tally.count).sum(),
        counts,
    }
}

/// When live tallies are due: soon after a change, but never twice within an interval.
struct Pace {
    interval: Duration,
    last: Option<Instant>,
    due: Option<Instant>,
    /// Whether a timer for `due` was asked for.
    scheduled: bool,
}

impl Pace {
    fn new(interval: Duration) -> Pace {
        Pace {
            interval,
            last: None,
            due: None,
            scheduled: false,
        }
    }

    fn changed(&mut self, now: Instant) {
        let rested = self.last.map_or(now, |last| last + self.interval);
        self.due.get_or_insert(rested.max(now + GATHER));
    }

    /// Whether they are due; if so, the next interval begins.
    fn due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.last = Some(now);
            self.due = None;
            self.scheduled = false;
        }
        due
    }

    /// When the next ones are due, once for each.
    fn next(&mut self) -> Option<Instant> {
        let due = self.due.filter(|_| !self.scheduled)?;
        self.scheduled = true;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use std::{cell::RefCell, collections::HashSet, rc::Rc};

    use timely::dataflow::operators::{inspect::Inspect, vec::Input};

    use super::*;
    use crate::timers::MachineClock;

    const STEP_COUNTS: usize = 4;

    fn rules(live: Duration, timers: Timers) -> Tumble {
        Tumble {
            size: WindowSize::from_ms(2000).unwrap(),
            swarm_size: 1000,
            live,
            max_step_counts: STEP_COUNTS,
            open_windows: IntGauge::new("open", "open").unwrap(),
            timers,
        }
    }

    /// One reaction with each emoji, in the first window of the room of this number.
    fn tallies(room: usize, emojis: &[Emoji]) -> Vec<PartialTally> {
        let room = Room::new(&format!("room-{room}")).unwrap();
        let tally = |emoji: &Emoji| PartialTally {
            time_ms: 1999,
            room: room.clone(),
            emoji: *emoji,
            count: 1,
        };
        emojis.iter().map(tally).collect()
    }

    #[test]
    fn with_too_many_counts_rooms_take_turns_and_none_is_left_out() {
        let emojis: Vec<Emoji> = (0..1000).filter_map(Emoji::from_id).collect();
        let rooms = 2 * MOST_LIVE_COUNTS / emojis.len() + 1;
        timely::execute_directly(move |worker| {
            let timers = Timers::new(Arc::new(MachineClock::default()));
            let rules = rules(Duration::from_millis(1), timers.clone());
            let emissions: Rc<RefCell<Vec<Vec<Room>>>> = Rc::default();
            let seen = emissions.clone();
            let mut input = worker.dataflow(|scope| {
                let (input, tallies) = scope.new_input();
                let (_, live) = tumble(tallies, rules);
                live.inspect(move |live| {
                    seen.borrow_mut()
                        .last_mut()
                        .unwrap()
                        .push(live.room.clone())
                });
                input
            });
            for room in 0..rooms {
                input.send_batch(&mut tallies(room, &emojis));
            }
            input.flush();
            let shown = |emissions: &[Vec<Room>]| emissions.iter().map(Vec::len).sum::<usize>();
            while shown(&emissions.borrow()) < rooms {
                emissions.borrow_mut().push(Vec::new());
                timers.ring();
                worker.step();
            }
            let emissions = emissions.borrow();
            let most = MOST_LIVE_COUNTS / emojis.len();
            let at_once: Vec<usize> = emissions
                .iter()
                .map(Vec::len)
                .filter(|it| *it > 0)
                .collect();
            assert_eq!(at_once, [most, most, 1]);
            let names: HashSet<&Room> = emissions.iter().flatten().collect();
            assert_eq!(names.len(), rooms);
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }

    #[test]
    fn a_close_of_many_counts_takes_several_steps_and_leaves_none_out() {
        let emojis: Vec<Emoji> = (0..3).filter_map(Emoji::from_id).collect();
        let rooms = 10 * STEP_COUNTS;
        timely::execute_directly(move |worker| {
            let timers = Timers::new(Arc::new(MachineClock::default()));
            let rules = rules(Duration::from_secs(600), timers);
            let closed: Rc<RefCell<Vec<Closed>>> = Rc::default();
            let seen = closed.clone();
            let mut input = worker.dataflow(|scope| {
                let (input, tallies) = scope.new_input();
                let (finals, _) = tumble(tallies, rules);
                finals.inspect(move |closed| seen.borrow_mut().push(closed.clone()));
                input
            });
            for room in 0..rooms {
                input.send_batch(&mut tallies(room, &emojis));
            }
            input.advance_to(2000);
            input.flush();
            let (mut names, mut steps) = (HashSet::new(), 0);
            while names.len() < rooms {
                worker.step();
                let closed = closed.take();
                let counts: usize = closed.iter().map(|closed| closed.counts.len()).sum();
                assert!(
                    counts < STEP_COUNTS + emojis.len(),
                    "{counts} counts in a step"
                );
                names.extend(closed.into_iter().map(|closed| closed.room));
                steps += 1;
                assert!(steps < 1000, "it stands still");
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }
}
