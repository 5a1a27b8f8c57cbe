//! Registers the rooms of finals: numbers them, marks the finals with which totals begin at 0, and removes rooms whose
//! totals have expired.
//!
//! ```text
//!  restored totals ─┐            ┌─▶ marked finals      ─▶ sink, trending
//!                   ├─▶ register ┼─▶ changes of sums    ─▶ arranged sums ─┐
//!  finals ──────────┘      ▲     └─▶ rooms to be removed ─▶ sink          │
//!                          └────── sums of retired numbers are read ──────┘
//! ```
//!
//! The sums of a room are stored under its number. Where they begin at 0, the room gets another number, and the sums of
//! the old one are retracted later: at the time of the first final they may not be complete in the arrangement, and no
//! result depends on them any more. The number of a room that is removed is retired in the same way.
//! [`crate::lifetimes`] decides when totals begin and when they expire.
//!
//! Finals wait until all totals are restored, since restored totals contain the time of a room's last final. The
//! operator holds capabilities that follow the frontier of its finals, since a room expires when no final of it
//! arrives.

use std::{cell::RefCell, collections::VecDeque, mem, rc::Rc};

use differential_dataflow::{
    hashable::Hashable,
    operators::arrange::TraceAgent,
    trace::{Cursor, TraceReader, cursor::cursor_list, implementations::ValSpine},
};
use emostream_model::{Emoji, Room, UnnamedCount, Window, WindowSize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::{Exchange, Pipeline},
        operators::{
            Capability,
            generic::{OutputBuilder, OutputBuilderSession, builder_rc::OperatorBuilder},
            probe,
        },
    },
    progress::Antichain,
};

use crate::{
    due::Change,
    follow::{Sums, sums_of},
    lifetimes::Lifetimes,
    rooms::{RoomNumber, Rooms},
    slide::{EmojiId, RoomChange},
    totals::RestoredTotals,
    tumble::Closed,
};

/// Maximum number of rooms that all workers remove with one close. Removing a room costs two records, and after a long
/// pause all rooms may have expired.
const MAX_REMOVED: usize = 1_000;

/// The trace of the sums, by room and emoji.
pub type SumsTrace = TraceAgent<ValSpine<RoomNumber, EmojiId, u64, i64>>;

/// The state that the operators `register rooms` and `totals` of a worker share.
#[derive(Default)]
pub struct Shared {
    /// The trace of the sums, once they are arranged.
    pub sums: Option<SumsTrace>,
    /// Restored state besides the sums: counts of unknown emojis, and finals that are not in the room's record.
    pub restored: Vec<(RoomNumber, Vec<UnnamedCount>, Option<Change>)>,
    /// The new and the former number of each room whose totals began at 0 again.
    pub replaced: Vec<(RoomNumber, RoomNumber)>,
    /// Numbers that were freed. All state that is stored under them must be dropped before they are used again.
    pub freed: Vec<RoomNumber>,
}

impl Shared {
    /// Returns the trace of the sums. `totals` compacts it.
    pub fn sums(&mut self) -> &mut SumsTrace {
        let sums = self.sums.as_mut();
        sums.expect("the sums are arranged before the first step")
    }
}

/// The settings of [`register`].
pub struct RegistryRules {
    /// The size of the windows.
    pub size: WindowSize,
    /// Time without a final after which totals begin at 0, milliseconds.
    pub retention_ms: u64,
    /// Length of the trending span, milliseconds.
    pub span_ms: u64,
    /// The time up to which windows were final at the start of the run.
    pub final_until_ms: u64,
    /// How many counts and rooms a step handles.
    pub max_step_counts: usize,
    /// The probe of committed results.
    pub durable: probe::Handle<u64>,
}

/// The outputs of [`register`].
pub struct Registered<'scope> {
    /// All finals; those with which totals begin are marked.
    pub finals: StreamVec<'scope, u64, Closed>,
    /// How the sums of the numbers change.
    pub changes: StreamVec<'scope, u64, RoomChange>,
    /// The rooms that are removed, each with the start of the window at whose close it is removed.
    pub removed: StreamVec<'scope, u64, (Room, u64)>,
}

type Output<'a, D> = OutputBuilderSession<'a, u64, CapacityContainerBuilder<Vec<D>>>;

/// Registers the rooms of `finals` and of `restored` totals, each on the worker that computes its windows.
pub fn register<'scope>(
    finals: StreamVec<'scope, u64, Closed>,
    restored: StreamVec<'scope, u64, RestoredTotals>,
    rooms: Rooms,
    shared: Rc<RefCell<Shared>>,
    rules: RegistryRules,
) -> Registered<'scope> {
    let scope = finals.scope();
    let mut builder = OperatorBuilder::new("register rooms".to_owned(), scope);
    let activator = scope.activator_for(builder.operator_info().address);
    // The tumbling windows were exchanged by room: finals are on the worker of their room already.
    let mut finals = builder.new_input(finals, Pipeline);
    let by_room = Exchange::new(|totals: &RestoredTotals| totals.room.hashed());
    let mut restored = builder.new_input(restored, by_room);
    let (of_finals, marked) = builder.new_output();
    let (of_changes, changes) = builder.new_output();
    let (of_removed, removed) = builder.new_output();
    let mut of_finals = OutputBuilder::from(of_finals);
    let mut of_changes = OutputBuilder::from(of_changes);
    let mut of_removed = OutputBuilder::from(of_removed);
    let max_removed = (MAX_REMOVED / scope.peers()).max(1);
    builder.build(move |mut capabilities| {
        let removals = capabilities.pop();
        let mut held = capabilities.pop().zip(removals);
        let mut registry = Registry {
            lifetimes: Lifetimes::new(rules.retention_ms, rules.span_ms),
            rooms,
            shared,
            retired: VecDeque::new(),
            max_step_counts: rules.max_step_counts,
            closed_until_ms: rules.final_until_ms,
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
            let durable_ms = rules.durable.with_frontier(|it| it.first().copied());
            let durable_ms = durable_ms.unwrap_or_default();
            registry.free_retired(durable_ms);
            let mut marked = of_finals.activate();
            finals.for_each_stamp(|at, data| {
                let (mut marked, mut changes) = (marked.session(&at), changes.session(&at));
                for mut closed in data.flat_map(|data| data.drain(..)) {
                    let (room, time_ms) = (registry.register(&mut closed), closed.window.last_ms());
                    let change = |(emoji, count): &(Emoji, u64)| {
                        ((room, emoji.id()), time_ms, *count as i64)
                    };
                    changes.give_iterator(closed.counts.iter().map(change));
                    marked.give(closed);
                }
            });
            // An empty frontier means that the sources have ended, not that all rooms have expired.
            let (Some(&until_ms), Some((of_changes, of_removals))) =
                (frontiers[0].frontier().first(), &mut held)
            else {
                held = None;
                return;
            };
            let closed_until_ms = rules.size.floor(until_ms);
            if closed_until_ms > registry.closed_until_ms {
                registry.closed_until_ms = closed_until_ms;
                let closed = rules.size.window_of(closed_until_ms - 1);
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

struct Registry {
    lifetimes: Lifetimes,
    rooms: Rooms,
    shared: Rc<RefCell<Shared>>,
    /// Retired numbers whose sums are not retracted yet, and the time at which each was retired.
    retired: VecDeque<(u64, RoomNumber)>,
    max_step_counts: usize,
    /// The end of the last window that is closed.
    closed_until_ms: u64,
}

impl Registry {
    /// Registers a restored room. Returns the changes that produce its sums.
    fn restore(&mut self, totals: RestoredTotals) -> impl Iterator<Item = RoomChange> {
        let room = self.rooms.number(&totals.room);
        self.lifetimes.extend(room, totals.last_ms);
        if !totals.unnamed.is_empty() || totals.change.is_some() {
            let mut shared = self.shared.borrow_mut();
            shared.restored.push((room, totals.unnamed, totals.change));
        }
        let counts = totals.counts.into_iter();
        counts.map(move |(emoji, count)| ((room, emoji.id()), 0, count as i64))
    }

    /// Marks a final if its room's totals begin with it. Returns the number of the room's sums.
    fn register(&mut self, closed: &mut Closed) -> RoomNumber {
        let mut room = self.rooms.number(&closed.room);
        let start_ms = closed.window.start;
        closed.begins = self.lifetimes.begins(room, start_ms);
        if closed.begins && self.lifetimes.forget(room) {
            self.retire(room, closed.window.last_ms());
            let former = mem::replace(&mut room, self.rooms.number(&closed.room));
            self.shared.borrow_mut().replaced.push((room, former));
        }
        self.lifetimes.extend(room, start_ms);
        room
    }

    fn retire(&mut self, room: RoomNumber, time_ms: u64) {
        self.rooms.retire(room, time_ms);
        self.retired.push_back((time_ms, room));
    }

    /// Retires the numbers of up to `max_rooms` rooms that have expired with `closed`, the window that was closed last.
    /// Returns the rooms and the start of that window. Only what a room produced before `durable_until_ms` is committed: a room
    /// that has expired since may still produce a record, which would come after its removal.
    fn expire(
        &mut self,
        closed: Window,
        durable_until_ms: u64,
        max_rooms: usize,
    ) -> impl Iterator<Item = (Room, u64)> {
        let before_ms = closed.start.min(durable_until_ms);
        let expired = self
            .lifetimes
            .expire(before_ms, max_rooms, self.max_step_counts);
        expired.into_iter().map(move |room| {
            self.retire(room, closed.last_ms());
            (self.rooms.room(room), closed.start)
        })
    }

    /// Retracts some of the sums of retired numbers, if they are complete in the arrangement. Returns whether more of
    /// them can be retracted.
    fn retract(&mut self, at: &Capability<u64>, changes: &mut Output<'_, RoomChange>) -> bool {
        if self.retired.is_empty() {
            return false;
        }
        let mut shared = self.shared.borrow_mut();
        let sums = shared.sums();
        let mut upper = Antichain::new();
        sums.read_upper(&mut upper);
        let is_complete = |retired: &(u64, RoomNumber)| !upper.less_than(&retired.0);
        if !self.retired.front().is_some_and(is_complete) {
            return false;
        }
        let batches = sums.batches_through(upper.borrow());
        let batches = batches.expect("the trace is not compacted beyond its end");
        let (mut known, ref held) = cursor_list(batches);
        let mut session = changes.session(at);
        let mut left = self.max_step_counts;
        while let Some((_, room)) = self.retired.pop_front_if(|it| is_complete(it)) {
            let mut of_room = Sums::<EmojiId>::new();
            known.rewind_keys(held);
            known.seek_key(held, &room);
            if known.get_key(held) == Some(&room) {
                sums_of(&mut known, held, u64::MAX, &mut of_room);
            }
            let change = |(emoji, sum): &(&EmojiId, i64)| ((room, **emoji), *at.time(), -sum);
            session.give_iterator(of_room.iter().map(change));
            self.rooms.mark_empty(room, *at.time());
            left = left.saturating_sub(of_room.len().max(1));
            if left == 0 {
                return true;
            }
        }
        false
    }

    /// Frees the retired numbers whose sums of 0 are committed.
    fn free_retired(&mut self, durable_until_ms: u64) {
        let freed = self.rooms.free_retired(durable_until_ms);
        self.shared.borrow_mut().freed.extend(freed);
    }
}
