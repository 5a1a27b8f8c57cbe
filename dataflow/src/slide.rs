//! Lets counts slide through a span: each counts from its window on, until it leaves.
//!
//! ```text
//!  a final ──▶ + at its window ············ the span ············▶ − at the window it is out of
//!                    └── held here, a dozen bytes an emoji ────────────┘
//! ```
//!
//! What is to be taken back is held here and not in differential, where every count of the span would
//! be an update at a future time: of 10,000 rooms with 50 emojis and a span of 30 windows, 15 million.
//! Downstream there are the current sums alone. A window's changes leave together when it is closed,
//! so that what comes and what goes cancel before anything is sorted into a trace.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use differential_dataflow::hashable::Hashable;
use emostream_model::{Emoji, Room};
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{
            Capability, InputCapability,
            generic::{OutputBuilder, OutputBuilderSession, builder_rc::OperatorBuilder},
            probe,
        },
    },
    progress::frontier::MutableAntichain,
};

use crate::rooms::{RoomNumber, Rooms};

/// Counts of a room that are in the span for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// Which room.
    pub room: Room,
    /// The last instant of the first window they count in.
    pub from_ms: u64,
    /// The last instant of the first window that they are out of.
    pub until_ms: u64,
    /// How many of each emoji.
    pub counts: Arc<[(Emoji, u64)]>,
}

/// An emoji's number ([`Emoji::id`]): compared much faster than its text.
pub type EmojiId = u16;

/// What leads across rooms.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Leader {
    /// An emoji, in all rooms together.
    Emoji(Emoji),
    /// A room, with all its emojis.
    Room(Room),
}

/// A change of a room's count of an emoji.
pub type RoomChange = ((RoomNumber, EmojiId), u64, i64);

/// A change of a count across rooms, as far as this worker's rooms go.
pub type LeaderChange = (((), Leader), u64, i64);

type Output<'a, D> = OutputBuilderSession<'a, u64, CapacityContainerBuilder<Vec<D>>>;

/// How the sums of the span change at each window: of each room on the worker that has it, numbered by
/// `rooms`, and across rooms. A room keeps its number while it has counts in the span; `durable`, the probe of
/// committed results, shows when the number may be used again. A step handles about `max_step_counts` counts.
pub fn slide<'scope>(
    stays: StreamVec<'scope, u64, Stay>,
    rooms: Rooms,
    max_step_counts: usize,
    durable: probe::Handle<u64>,
) -> (
    StreamVec<'scope, u64, RoomChange>,
    StreamVec<'scope, u64, LeaderChange>,
) {
    let mut builder = OperatorBuilder::new("slide".to_owned(), stays.scope());
    let activator = stays.scope().activator_for(builder.operator_info().address);
    // As tumbling does: a final stays where it is.
    let by_room = Exchange::new(|stay: &Stay| stay.room.hashed());
    let mut input = builder.new_input(stays, by_room);
    let (by_room, room_changes) = builder.new_output();
    let (across, leader_changes) = builder.new_output();
    let (mut by_room, mut across) = (OutputBuilder::from(by_room), OutputBuilder::from(across));
    builder.build(move |_| {
        let mut turns = Turns {
            rooms,
            max_step_counts,
            held: Vec::new(),
            left: VecDeque::new(),
            turns: BTreeMap::new(),
            passing: None,
        };
        move |frontiers| {
            if let Some(until_ms) = durable.with_frontier(|it| it.first().copied()) {
                turns.free(until_ms);
            }
            input.for_each_stamp(|at, data| {
                for stay in data.flat_map(|data| data.drain(..)) {
                    turns.enter(&at, &stay);
                }
            });
            let more = turns.pass(
                &frontiers[0],
                &mut by_room.activate(),
                &mut across.activate(),
            );
            if more {
                activator.activate();
            }
        }
    });
    (room_changes, leader_changes)
}

/// The windows at which counts come or leave, by their last instants.
struct Turns {
    rooms: Rooms,
    max_step_counts: usize,
    /// The number of entries that are held of each room, by its number, and the time at which it last became 0.
    held: Vec<(usize, u64)>,
    /// The rooms whose last entry has left, in the order of the times at which it left.
    left: VecDeque<(u64, RoomNumber)>,
    turns: BTreeMap<u64, Turn>,
    passing: Option<PassingTurn>,
}

/// The turn of a window that has closed, with the rooms whose changes were not sent yet.
struct PassingTurn {
    time_ms: u64,
    turn: Turn,
    /// The first room that was not sent.
    next: RoomNumber,
    /// How the count of each emoji changes in the rooms that were sent, by [`Emoji::id`].
    emojis: Vec<i64>,
}

struct Turn {
    by_room: Capability<u64>,
    across: Capability<u64>,
    /// By the window that they are out of.
    comes: BTreeMap<u64, Vec<Entry>>,
    /// In runs that are in order: each is what came at once.
    leaves: Vec<Entry>,
}

/// One emoji's count of a room and window: 12 bytes. A greater count than fits is several entries.
#[derive(Clone, Copy)]
struct Entry {
    room: RoomNumber,
    count: u32,
    emoji: EmojiId,
}

fn entries(room: RoomNumber, emoji: Emoji, count: u64) -> impl Iterator<Item = Entry> {
    let most = u64::from(u32::MAX);
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| Entry {
        room,
        count: (count - part * most).min(most) as u32,
        emoji: emoji.id(),
    })
}

impl Turns {
    fn enter(&mut self, at: &InputCapability<u64>, stay: &Stay) {
        let room = self.rooms.number(&stay.room);
        let turn = self.turns.entry(stay.from_ms).or_insert_with(|| Turn {
            by_room: at.delayed(&stay.from_ms, 0),
            across: at.delayed(&stay.from_ms, 1),
            comes: BTreeMap::new(),
            leaves: Vec::new(),
        });
        let comes = turn.comes.entry(stay.until_ms).or_default();
        let (counts, before) = (stay.counts.iter(), comes.len());
        comes.extend(counts.flat_map(|(emoji, count)| entries(room, *emoji, *count)));
        if self.held.len() <= room.index() {
            self.held.resize(room.index() + 1, (0, 0));
        }
        self.held[room.index()].0 += comes.len() - before;
    }

    /// Sends some of the changes of the windows that the frontier has passed. Returns whether more is left for
    /// another step.
    ///
    /// An empty frontier passes none: it means that the sources are gone.
    fn pass(
        &mut self,
        frontier: &MutableAntichain<u64>,
        by_room: &mut Output<'_, RoomChange>,
        across: &mut Output<'_, LeaderChange>,
    ) -> bool {
        let Some(&frontier_ms) = frontier.frontier().first() else {
            return false;
        };
        let mut left = self.max_step_counts;
        loop {
            let next = self.passing.take();
            let Some(mut passing) = next.or_else(|| self.next_passing(frontier_ms)) else {
                return false;
            };
            let time_ms = passing.time_ms;
            let leader = |(leader, diff)| (((), leader), time_ms, diff);
            let upper = passing.upper(left);
            let (changes, entries) = passing.turn.changes(passing.next, upper);
            for leaving in passing.turn.leaving(passing.next, upper) {
                self.release(leaving[0].room, leaving.len(), time_ms);
            }
            let leaders = passing.leaders(&changes, &self.rooms);
            across
                .session(&passing.turn.across)
                .give_iterator(leaders.into_iter().map(leader));
            let change = |((room, emoji), diff): Change| ((room, emoji), time_ms, diff);
            by_room
                .session(&passing.turn.by_room)
                .give_iterator(changes.into_iter().map(change));
            if let Some(upper) = upper {
                passing.next = upper;
                self.passing = Some(passing);
                return true;
            }
            let PassingTurn { turn, emojis, .. } = passing;
            let emojis = Emoji::all().map(Leader::Emoji).zip(emojis);
            across
                .session(&turn.across)
                .give_iterator(emojis.filter(|(_, diff)| *diff != 0).map(leader));
            self.leave(turn);
            left = left.saturating_sub(entries.max(Emoji::all().len()));
            if left == 0 {
                return true;
            }
        }
    }

    /// Takes the earliest turn, if the frontier has passed it.
    fn next_passing(&mut self, frontier_ms: u64) -> Option<PassingTurn> {
        let first = self.turns.first_entry();
        let (time_ms, mut turn) = first.filter(|t| *t.key() < frontier_ms)?.remove_entry();
        // Nearly in order already: rooms come in the order of their names, and what leaves are such runs.
        let all = turn.comes.values_mut().chain([&mut turn.leaves]);
        all.for_each(|entries| entries.sort_by_key(Entry::of));
        Some(PassingTurn {
            time_ms,
            turn,
            next: RoomNumber(0),
            emojis: vec![0; Emoji::all().len()],
        })
    }

    /// Frees the numbers of rooms without counts in the span, once it is committed that the last ones have left. A room
    /// that returned earlier under another number could have its new record written before the one of the leaving.
    fn free(&mut self, durable_until_ms: u64) {
        while let Some((left_ms, room)) = self.left.pop_front_if(|it| it.0 < durable_until_ms) {
            if self.held[room.index()] == (0, left_ms) {
                self.rooms.free(room);
            }
        }
    }

    /// Some entries of a room leave the span with the window whose last instant is `time_ms`.
    fn release(&mut self, room: RoomNumber, entries: usize, time_ms: u64) {
        let held = &mut self.held[room.index()];
        held.0 -= entries;
        if held.0 == 0 {
            held.1 = time_ms;
            self.left.push_back((time_ms, room));
        }
    }

    /// Schedules when the counts of a turn leave the span.
    fn leave(&mut self, turn: Turn) {
        for (until_ms, mut comes) in turn.comes {
            // Of a window that is closed no more comes: what is held fits.
            comes.shrink_to_fit();
            let later = self.turns.entry(until_ms).or_insert_with(|| Turn {
                by_room: turn.by_room.delayed(&until_ms),
                across: turn.across.delayed(&until_ms),
                comes: BTreeMap::new(),
                leaves: Vec::new(),
            });
            match later.leaves.is_empty() {
                true => later.leaves = comes,
                false => later.leaves.append(&mut comes),
            }
        }
    }
}

/// By how much the count of a room's emoji changes.
type Change = ((RoomNumber, EmojiId), i64);

/// Where the entries of the rooms from `lower` on and below `upper` are, which are sorted by room.
fn within(entries: &[Entry], lower: RoomNumber, upper: Option<RoomNumber>) -> Range<usize> {
    let from = entries.partition_point(|entry| entry.room < lower);
    let below = |upper| entries.partition_point(|entry| entry.room < upper);
    from..upper.map_or(entries.len(), below)
}

impl Entry {
    fn of(&self) -> (RoomNumber, EmojiId) {
        (self.room, self.emoji)
    }
}

impl PassingTurn {
    /// The first room that is left for another step, so that this one handles at least one room and, if there are more,
    /// about `most` entries; `None` for no room.
    fn upper(&self, most: usize) -> Option<RoomNumber> {
        let after = |entries: &Vec<Entry>| {
            let from = entries.partition_point(|entry| entry.room < self.next);
            entries
                .get(from + most)
                .map(|entry| RoomNumber(entry.room.0 + 1))
        };
        let all = self.turn.comes.values().chain([&self.turn.leaves]);
        all.filter_map(after).min()
    }

    /// The changes of these rooms' own counts across rooms; those of their emojis are added up.
    fn leaders(&mut self, changes: &[Change], rooms: &Rooms) -> Vec<(Leader, i64)> {
        let mut leaders = Vec::new();
        for of_room in changes.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
            let ((room, _), _) = of_room[0];
            let sum: i64 = of_room.iter().map(|(_, diff)| diff).sum();
            if sum != 0 {
                leaders.push((Leader::Room(rooms.room(room)), sum));
            }
            for ((_, emoji), diff) in of_room {
                self.emojis[usize::from(*emoji)] += diff;
            }
        }
        leaders
    }
}

impl Turn {
    /// The entries that leave, of each room from `lower` on and below `upper`.
    fn leaving(
        &self,
        lower: RoomNumber,
        upper: Option<RoomNumber>,
    ) -> impl Iterator<Item = &[Entry]> {
        self.leaves[within(&self.leaves, lower, upper)].chunk_by(|a, b| a.room == b.room)
    }

    /// What comes less what leaves, by room and emoji, of the rooms from `lower` on and below `upper`; and of how many
    /// entries.
    fn changes(&self, lower: RoomNumber, upper: Option<RoomNumber>) -> (Vec<Change>, usize) {
        let signed = |sign: i64| move |entry: &Entry| (entry.of(), sign * i64::from(entry.count));
        let within = |entries: &'_ Vec<Entry>| within(entries, lower, upper);
        let comes = self.comes.values();
        let comes = comes.flat_map(|entries| entries[within(entries)].iter().map(signed(1)));
        let leaves = self.leaves[within(&self.leaves)].iter().map(signed(-1));
        let mut changes: Vec<Change> = comes.chain(leaves).collect();
        let entries = changes.len();
        // The stable sort finds the runs that are in order, and merges them.
        changes.sort_by_key(|(of, _)| *of);
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use std::{cell::RefCell, rc::Rc};

    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;

    const STEP_COUNTS: usize = 4;

    /// A change of a room's or of a leader's count, and the window at which it is made.
    type Seen<T> = Rc<RefCell<Vec<(T, u64, i64)>>>;

    #[test]
    fn a_close_of_many_counts_takes_several_steps_and_leaves_none_out() {
        // A room has more than a step handles.
        let emojis: Vec<Emoji> = (0..6).filter_map(Emoji::from_id).collect();
        let rooms = 10 * STEP_COUNTS;
        timely::execute_directly(move |worker| {
            let (by_room, across): (Seen<_>, Seen<_>) = Default::default();
            let (of_room, of_leader) = (by_room.clone(), across.clone());
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, stays) = scope.new_input();
                let (rooms, leaders) =
                    slide(stays, Rooms::default(), STEP_COUNTS, probe::Handle::new());
                let rooms = rooms.inspect(move |change| of_room.borrow_mut().push(*change));
                leaders.inspect(move |((_, leader), at_ms, diff)| {
                    of_leader.borrow_mut().push((leader.clone(), *at_ms, *diff));
                });
                (input, rooms.probe().0)
            });
            for room in 0..rooms {
                input.send(Stay {
                    room: Room::new(&format!("room-{room}")).unwrap(),
                    from_ms: 0,
                    until_ms: 10,
                    counts: emojis.iter().map(|emoji| (*emoji, 2)).collect(),
                });
            }
            for (frontier_ms, time_ms, diff) in [(10, 0, 2), (20, 10, -2)] {
                input.advance_to(frontier_ms);
                let mut changes = Vec::new();
                while probe.less_than(&frontier_ms) {
                    worker.step();
                    let step = by_room.take();
                    // The room that goes over the limit, and with the last step the next window's.
                    let most = STEP_COUNTS + emojis.len();
                    assert!(step.len() <= most, "{} changes in a step", step.len());
                    changes.extend(step);
                }
                assert_eq!(changes.len(), rooms * emojis.len());
                assert!(
                    changes
                        .iter()
                        .all(|(_, at_ms, by)| (*at_ms, *by) == (time_ms, diff))
                );
                let leaders = across.take();
                assert_eq!(leaders.len(), rooms + emojis.len());
                let sum: i64 = leaders.iter().map(|(_, _, diff)| diff).sum();
                assert_eq!(sum, 2 * diff * (rooms * emojis.len()) as i64);
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }
}
