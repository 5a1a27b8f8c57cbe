//! Totals per room, kept by differential dataflow behind the pre-aggregation.
//!
//! ```text
//!  finals ─▶ register ─▶ arranged sums ─┬─ of a small room ──at each change──▶ its record
//!                └▶ removed rooms       └─ of a large room ─▶ schedule ──when due──▶ its record
//! ```
//!
//! A final adds its counts as differences at the last instant of its window; the accumulated differences as of a
//! window are the totals as of it. History before the frontier is consolidated away, so memory holds
//! one count for each room and emoji.
//!
//! The record of a small room is written at each change, the record of a large one when [`crate::due`] says so: its
//! sums are read then and only then. Which rooms are large is known without reading them, since the number of emojis is
//! kept beside: a change of a sum that was 0 adds one.
//!
//! Counts of emojis that this build does not know lie beside the sums. They never change, since reactions with such
//! emojis are rejected, but each record of their room repeats them: without them it would lose what another build
//! counted. They count where a room is large or not, too.
//!
//! A large room may be quiet when its record is due. So the operator holds a capability that follows the frontier of
//! its input.
//!
//! Invariants:
//! - A record holds all finals of its room up to the window that it names, and is written after them.
//! - Of each window, the sink is notified of the oldest final that is in no record, before the window can be committed.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map},
    mem,
    rc::Rc,
    vec,
};

use differential_dataflow::{
    operators::arrange::arrangement::arrange_core,
    trace::{
        Cursor, Navigable, SpanOf, TraceReader,
        cursor::cursor_list,
        implementations::{ValBatcher, ValSpine},
    },
};
use emostream_model::{
    Count, Emoji, ResultOrder, Room, TotalCounts, TotalsRecord, UnnamedCount, Window, WindowSize,
    sort_counts,
};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        Stream, StreamVec,
        channels::pact::Pipeline,
        operators::{Concat, ToStream, generic::Operator, probe, vec::Map},
    },
    progress::Antichain,
};

use crate::{
    due::{Change, Due, Schedule, TotalsPace},
    follow::{Batch, Sums, add, sums_of},
    lifetimes::exceeds_retention,
    registry::{Registered, RegistryRules, Shared, SumsTrace, register},
    results::{Table, totals_bytes},
    rooms::{RoomNumber, Rooms},
    slide::EmojiId,
    tumble::Closed,
};

/// The counts of a room since its totals last began at 0, as of a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomTotals {
    /// Which room.
    pub room: Room,
    /// The window that changed it last.
    pub window: Window,
    /// The number of backward resets before that window.
    pub resets: u64,
    /// How many of each emoji.
    pub counts: Vec<(Emoji, u64)>,
    /// How many of those that this build does not know, as in [`TotalCounts`].
    pub unnamed: Vec<UnnamedCount>,
}

/// The totals of a room as of F, as the log holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredTotals {
    /// Which room.
    pub room: Room,
    /// How many of each emoji.
    pub counts: Vec<(Emoji, u64)>,
    /// How many of those that this build does not know, as in [`TotalCounts`].
    pub unnamed: Vec<UnnamedCount>,
    /// The finals among them that are not in the room's record.
    pub change: Option<Change>,
    /// The start of the window of its last final.
    pub last_ms: u64,
}

/// The settings of [`totals`].
#[derive(Debug, Clone, Copy)]
pub struct TotalsRules {
    /// The size of the windows.
    pub size: WindowSize,
    /// How often records are written.
    pub pace: TotalsPace,
    /// Time without a final after which a room's totals begin at 0, milliseconds.
    pub retention_ms: u64,
    /// Length of the trending span, milliseconds.
    pub span_ms: u64,
    /// How long the log keeps finals, milliseconds; `None` for ever.
    pub finals_kept_ms: Option<u64>,
    /// F at the start of the run.
    pub final_until_ms: u64,
    /// The number of backward resets so far.
    pub resets: u64,
    /// How many counts a step handles.
    pub max_step_counts: usize,
}

/// An output of the totals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TotalsOutput {
    /// A room's record.
    Record(RoomTotals),
    /// What a worker has not written.
    Unwritten(UnwrittenSince),
    /// The removal of a room from one of its tables, since its totals have expired; and the start of the window at
    /// whose close it is removed, Unix milliseconds.
    Removed(Table, Room, u64),
}

/// The oldest final of a worker's rooms that is in no record, as of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwrittenSince {
    /// Which worker.
    pub worker: usize,
    /// `None`: each record is complete.
    pub since: Option<ResultOrder>,
}

/// The outputs of [`totals`].
pub struct Totals<'scope> {
    /// All finals; those with which totals begin are marked.
    pub finals: StreamVec<'scope, u64, Closed>,
    /// The totals records that are written at each window, the oldest final that is in no record, and removed rooms.
    pub outputs: StreamVec<'scope, u64, TotalsOutput>,
}

/// Keeps the totals of `finals`.
///
/// `restored` are the totals as of the start of the run. They are counted, and what their records contain is not
/// written again. `durable` is the probe of committed results.
pub fn totals<'scope>(
    finals: StreamVec<'scope, u64, Closed>,
    restored: Vec<RestoredTotals>,
    rules: TotalsRules,
    durable: probe::Handle<u64>,
) -> Totals<'scope> {
    let scope = finals.scope();
    let restored = restored.into_iter().to_stream(scope);
    let (rooms, shared) = (Rooms::default(), Rc::<RefCell<Shared>>::default());
    let registry = RegistryRules {
        size: rules.size,
        retention_ms: rules.retention_ms,
        span_ms: rules.span_ms,
        final_until_ms: rules.final_until_ms,
        max_step_counts: rules.max_step_counts,
        durable,
    };
    let Registered {
        finals,
        changes,
        removed,
    } = register(finals, restored, rooms.clone(), shared.clone(), registry);
    // The numbers are this worker's own, so the changes stay where they are.
    let sums = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        changes,
        Pipeline,
        "total sums",
        ValBatcher::new,
    );
    shared.borrow_mut().sums = Some(sums.trace);
    let writer = TotalsWriter::new(rules, rooms, shared, scope.index(), scope.peers());
    let removed = removed.flat_map(|(room, start_ms)| {
        let of = |table| TotalsOutput::Removed(table, room.clone(), start_ms);
        [of(Table::Totals), of(Table::Trending)]
    });
    let outputs = write(sums.stream, writer).concat(removed);
    Totals { finals, outputs }
}

/// Sends what is written of the sums at each window, at the window's own time: the sink commits by time.
fn write<'scope>(
    changes: Stream<'scope, u64, Vec<SpanOf<SumsTrace>>>,
    mut totals: TotalsWriter,
) -> StreamVec<'scope, u64, TotalsOutput> {
    let scope = changes.scope();
    changes.unary_frontier::<CapacityContainerBuilder<Vec<TotalsOutput>>, _, _, _>(
        Pipeline,
        "totals",
        move |capability, info| {
            let activator = scope.activator_for(info.address);
            // No window that ends at or before its time is open here.
            let mut held = Some(capability);
            // The changes lie in [lower, upper), what was before them in the trace up to lower.
            let mut upper = Antichain::from_elem(0);
            let mut closing: Option<Closing> = None;
            move |(input, frontier), output| {
                totals.renumber();
                let mut left = totals.rules.max_step_counts;
                loop {
                    if closing.is_none() {
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
                        // Without a frontier the sources are gone: only what came is handled.
                        let until_ms = until_ms.unwrap_or_else(|| end_of(&changes));
                        let through = if changes.is_empty() { &upper } else { &lower };
                        // Of a room whose emojis are all unknown there are no changes.
                        let is_restored = totals.restore();
                        let is_due = totals.next_due(until_ms).is_some();
                        // Numbers that were freed had records that are not written any more.
                        let is_outdated = totals.schedule.oldest() != totals.notified;
                        let has_work = is_restored || is_due || is_outdated || !changes.is_empty();
                        closing = has_work.then(|| Closing {
                            before: totals.sums_before(through),
                            changes,
                            told: None,
                            is_walked: false,
                            large: BTreeMap::new(),
                            window: None,
                            until_ms,
                        });
                        if closing.is_none() {
                            if let Some(held) = &mut held
                                && *held.time() < until_ms
                            {
                                held.downgrade(&until_ms);
                            }
                            break;
                        }
                    }
                    let (Some(some), Some(held)) = (&mut closing, &mut held) else {
                        break;
                    };
                    let mut written = Written::new();
                    let is_done = some.go_on(&mut totals, *held.time(), &mut left, &mut written);
                    for (time_ms, outputs) in written {
                        let at = held.delayed(&time_ms);
                        output.session(&at).give_iterator(outputs.into_iter());
                    }
                    if !is_done {
                        activator.activate();
                        return;
                    }
                    closing = None;
                }
                if frontier.frontier().is_empty() {
                    held = None;
                }
                totals.compact_before(&mut upper);
            }
        },
    )
}

/// The changes of sums between two times, or what they were before.
type TotalsBatch = Batch<RoomNumber, EmojiId>;

/// The time behind all of these changes.
fn end_of(changes: &[TotalsBatch]) -> u64 {
    let (mut cursor, ref storage) = cursor_list(changes.to_vec());
    let mut end_ms = 0;
    while cursor.key_valid(storage) {
        while cursor.val_valid(storage) {
            cursor.map_times(storage, |time_ms, _| end_ms = end_ms.max(*time_ms + 1));
            cursor.step_val(storage);
        }
        cursor.step_key(storage);
    }
    end_ms
}

/// What is sent, by time.
type Written = BTreeMap<u64, Vec<TotalsOutput>>;

/// What a worker knows of its rooms beside their sums.
struct TotalsWriter {
    rules: TotalsRules,
    worker: usize,
    rooms: Rooms,
    /// How many emojis each room has, by its number.
    emojis: Vec<usize>,
    /// The counts that this build cannot name, of the rooms that have any.
    unnamed: HashMap<RoomNumber, Vec<UnnamedCount>>,
    schedule: Schedule,
    shared: Rc<RefCell<Shared>>,
    /// The new and the former number of each room whose totals began at 0 again.
    replaced: HashMap<RoomNumber, RoomNumber>,
    /// The start of the first window that is not closed here.
    next_ms: u64,
    /// What the sink was notified of last.
    notified: Option<ResultOrder>,
}

impl TotalsWriter {
    fn new(
        rules: TotalsRules,
        rooms: Rooms,
        shared: Rc<RefCell<Shared>>,
        worker: usize,
        workers: usize,
    ) -> TotalsWriter {
        TotalsWriter {
            schedule: Schedule::new(rules.pace, rules.size, workers, rules.finals_kept_ms),
            next_ms: rules.final_until_ms,
            rules,
            worker,
            rooms,
            emojis: Vec::new(),
            unnamed: HashMap::default(),
            shared,
            replaced: HashMap::default(),
            notified: None,
        }
    }

    /// How many emojis a room has.
    fn emojis(&mut self, room: RoomNumber) -> &mut usize {
        let at = room.index();
        if self.emojis.len() <= at {
            self.emojis.resize(at + 1, 0);
        }
        &mut self.emojis[at]
    }

    /// Whether a change at that time is one of this run, not one that was restored.
    fn is_news(&self, time_ms: u64) -> bool {
        time_ms >= self.rules.final_until_ms && time_ms > 0
    }

    /// The first window that ends by `until_ms` and in which a record is due.
    fn next_due(&self, until_ms: u64) -> Option<Window> {
        let next = self.schedule.next(self.next_ms);
        next.filter(|window| window.end <= until_ms)
    }

    /// A room has changed in `window`, and its record is not written at once.
    fn changed(&mut self, room: RoomNumber, emojis: usize, window: Window) {
        let change = Change {
            first: ResultOrder::new(self.rules.resets, window),
            since_ms: window.start,
            last: window,
            last_resets: self.rules.resets,
        };
        let name = self.rooms.room(room);
        self.schedule.changed(room, &name, change, emojis);
    }

    /// Applies the restored state besides the sums. Returns whether there was any. The numbers of emojis grow when the
    /// sums are read.
    fn restore(&mut self) -> bool {
        let restored = mem::take(&mut self.shared.borrow_mut().restored);
        let is_any = !restored.is_empty();
        for (room, unnamed, change) in restored {
            let emojis = self.emojis(room);
            *emojis += unnamed.len();
            let emojis = *emojis;
            if !unnamed.is_empty() {
                self.unnamed.insert(room, unnamed);
            }
            if let Some(change) = change {
                let name = self.rooms.room(room);
                self.schedule.changed(room, &name, change, emojis);
            }
        }
        is_any
    }

    /// Returns the batches of the trace with all times before `frontier`.
    fn sums_before(&self, frontier: &Antichain<u64>) -> Vec<TotalsBatch> {
        let batches = self
            .shared
            .borrow_mut()
            .sums()
            .batches_through(frontier.borrow());
        batches.expect("the trace is not compacted beyond what was written")
    }

    /// Advances `frontier`, before which all totals are written, over empty batches, and lets the trace compact all
    /// times before it.
    fn compact_before(&self, frontier: &mut Antichain<u64>) {
        let mut shared = self.shared.borrow_mut();
        let sums = shared.sums();
        sums.advance_upper(frontier);
        sums.set_logical_compaction(frontier.borrow());
        sums.set_physical_compaction(frontier.borrow());
    }

    /// Records which rooms have got other numbers, and drops the state of numbers that were freed.
    fn renumber(&mut self) {
        let (replaced, freed) = {
            let shared = &mut *self.shared.borrow_mut();
            (
                mem::take(&mut shared.replaced),
                mem::take(&mut shared.freed),
            )
        };
        self.replaced.extend(replaced);
        for room in &freed {
            self.schedule.remove(*room);
            self.unnamed.remove(room);
            *self.emojis(*room) = 0;
        }
        if !freed.is_empty() {
            let rooms = &self.rooms;
            self.replaced
                .retain(|_, former| rooms.retired_at(*former).is_some());
        }
    }

    /// Whether the windows of a room are closed in order, since a record may be due at one of them before the next: the
    /// room is large or in the schedule, or its former number may still have a record that is due earlier.
    fn is_ordered(&self, room: RoomNumber, emojis: usize) -> bool {
        emojis > self.schedule.small_emojis()
            || self.schedule.holds(room)
            || self.replaced.contains_key(&room)
    }

    fn unnamed(&self, room: RoomNumber) -> &[UnnamedCount] {
        self.unnamed.get(&room).map_or(&[], Vec::as_slice)
    }

    /// Notifies the sink if another final than before is the oldest that is in no record, as of `time_ms`.
    fn notify(&mut self, time_ms: u64, written: &mut Written) {
        let since = self.schedule.oldest();
        if since != self.notified {
            self.notified = since;
            let unwritten = UnwrittenSince {
                worker: self.worker,
                since,
            };
            let outputs = written.entry(time_ms).or_default();
            outputs.push(TotalsOutput::Unwritten(unwritten));
        }
    }

    /// The record of a room that has changed in the window whose last instant is `time_ms`.
    fn record(&self, room: RoomNumber, time_ms: u64, counts: Vec<(Emoji, u64)>) -> TotalsOutput {
        TotalsOutput::Record(RoomTotals {
            room: self.rooms.room(room),
            window: self.rules.size.window_of(time_ms),
            resets: self.rules.resets,
            counts,
            unnamed: self.unnamed(room).to_vec(),
        })
    }

    fn due_record(&self, due: Due, counts: Vec<(Emoji, u64)>) -> TotalsOutput {
        TotalsOutput::Record(RoomTotals {
            room: self.rooms.room(due.room),
            window: due.last,
            resets: due.resets,
            counts,
            unnamed: self.unnamed(due.room).to_vec(),
        })
    }
}

/// Windows that are closed together: time has passed them at once.
struct Closing {
    before: Vec<TotalsBatch>,
    changes: Vec<TotalsBatch>,
    /// The last room whose changes were looked at.
    told: Option<RoomNumber>,
    /// Whether all were.
    is_walked: bool,
    /// The changes of rooms that are or were large, by window: room, and its number of emojis afterwards.
    large: BTreeMap<u64, Vec<(RoomNumber, usize)>>,
    /// The window whose due records are being written.
    window: Option<WindowTurn>,
    /// The windows that end by then are complete.
    until_ms: u64,
}

/// A window at which large rooms are looked at.
struct WindowTurn {
    window: Window,
    changed: vec::IntoIter<(RoomNumber, usize)>,
    /// How large the due records are that were written, bytes.
    spent: usize,
}

impl Closing {
    /// Handles about `left` counts. Returns whether all windows are closed.
    fn go_on(
        &mut self,
        totals: &mut TotalsWriter,
        from_ms: u64,
        left: &mut usize,
        written: &mut Written,
    ) -> bool {
        if !self.is_walked {
            self.is_walked = self.walk(totals, left, written);
            if !self.is_walked {
                return false;
            }
            totals.notify(from_ms, written);
        }
        self.close(totals, left, written)
    }

    /// Looks at the changes room by room: writes the records of small rooms, and keeps the changes of large ones for
    /// their windows. Returns whether it has come to the end.
    fn walk(&mut self, totals: &mut TotalsWriter, left: &mut usize, written: &mut Written) -> bool {
        let (mut known, ref held) = cursor_list(self.before.clone());
        let (mut changed, ref brought) = cursor_list(self.changes.clone());
        let (mut sums, mut next) = (Sums::<EmojiId>::new(), Sums::<EmojiId>::new());
        let mut steps: Vec<(u64, &EmojiId, i64)> = Vec::new();
        let mut single = SingleSums::new(&self.before);
        if let Some(told) = &self.told {
            changed.seek_key(brought, told);
            if changed.get_key(brought) == Some(told) {
                changed.step_key(brought);
            }
        }
        while let Some(&room) = changed.get_key(brought) {
            if *left == 0 {
                return false;
            }
            steps.clear();
            while let Some(emoji) = changed.get_val(brought) {
                changed.map_times(brought, |time_ms, diff| {
                    steps.push((*time_ms, emoji, *diff))
                });
                changed.step_val(brought);
            }
            if let Some(retired_ms) = totals.rooms.retired_at(room) {
                // Later changes retract the sums of a number that belongs to no room any more.
                steps.retain(|(time_ms, ..)| *time_ms < retired_ms);
                if steps.is_empty() {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        self.told = Some(room);
                    }
                    changed.step_key(brought);
                    continue;
                }
            }
            let mut emojis = *totals.emojis(room);
            let mut is_large = totals.is_ordered(room, emojis);
            // Of a room that is large already only the sums that change are read.
            let mut former: HashMap<EmojiId, i64> = HashMap::default();
            let reads_all = !is_large;
            sums.clear();
            if reads_all {
                known.seek_key(held, &room);
                if known.get_key(held) == Some(&room) {
                    sums_of(&mut known, held, u64::MAX, &mut sums);
                }
            } else {
                for (_, emoji, _) in &steps {
                    former.insert(**emoji, single.sum(room, **emoji));
                }
            }
            // Stable: of one time they stay in the order of their values.
            steps.sort_by_key(|(time_ms, ..)| *time_ms);
            for at_once in steps.chunk_by(|a, b| a.0 == b.0) {
                let time_ms = at_once[0].0;
                if reads_all {
                    add(&sums, at_once, &mut next);
                    std::mem::swap(&mut sums, &mut next);
                    emojis = sums.len() + totals.unnamed(room).len();
                } else {
                    for (_, emoji, diff) in at_once {
                        let sum = former.entry(**emoji).or_default();
                        let was = std::mem::replace(sum, *sum + diff);
                        emojis = emojis + usize::from(was == 0) - usize::from(*sum == 0);
                    }
                }
                is_large |= emojis > totals.schedule.small_emojis();
                if !totals.is_news(time_ms) {
                    // It is in the record, or in the change that was restored with it.
                    totals.schedule.resize(room, emojis);
                } else if is_large {
                    let of_window = self.large.entry(time_ms).or_default();
                    of_window.push((room, emojis));
                } else {
                    let record = totals.record(room, time_ms, counts(&sums));
                    written.entry(time_ms).or_default().push(record);
                }
            }
            *totals.emojis(room) = emojis;
            *left = left.saturating_sub(sums.len() + steps.len());
            if *left == 0 {
                self.told = Some(room);
            }
            changed.step_key(brought);
        }
        true
    }

    /// Closes the windows one after the other: notes which large rooms have changed, and writes what is due. Returns
    /// whether all are closed.
    fn close(
        &mut self,
        totals: &mut TotalsWriter,
        left: &mut usize,
        written: &mut Written,
    ) -> bool {
        let (mut known, ref held) = cursor_list(self.before.clone());
        let (mut changed, ref brought) = cursor_list(self.changes.clone());
        let mut read = |room: RoomNumber, until_ms: u64, left: &mut usize| {
            let (mut sums, mut changes) = (Sums::<EmojiId>::new(), Sums::<EmojiId>::new());
            known.rewind_keys(held);
            known.seek_key(held, &room);
            if known.get_key(held) == Some(&room) {
                // All of it: compaction gives what is old a later time, up to where the trace is sealed.
                sums_of(&mut known, held, u64::MAX, &mut sums);
            }
            changed.rewind_keys(brought);
            changed.seek_key(brought, &room);
            if changed.get_key(brought) == Some(&room) {
                sums_of(&mut changed, brought, until_ms, &mut changes);
            }
            let changes = changes.into_iter().map(|(emoji, diff)| (0, emoji, diff));
            let mut all = Sums::new();
            add(&sums, &changes.collect::<Vec<_>>(), &mut all);
            *left = left.saturating_sub(all.len());
            counts(&all)
        };
        loop {
            if self.window.is_none() {
                let changed = self.large.first_entry();
                let size = totals.rules.size;
                let next = changed.as_ref().map(|it| size.window_of(*it.key()));
                let due = totals.next_due(self.until_ms);
                let Some(window) = next.into_iter().chain(due).min() else {
                    totals.next_ms = size.floor(self.until_ms).max(totals.next_ms);
                    return true;
                };
                let changed = changed.filter(|it| *it.key() == window.last_ms());
                let changed = changed.map(btree_map::OccupiedEntry::remove);
                self.window = Some(WindowTurn {
                    window,
                    changed: changed.unwrap_or_default().into_iter(),
                    spent: 0,
                });
            }
            let Some(turn) = &mut self.window else {
                return true;
            };
            let (window, time_ms) = (turn.window, turn.window.last_ms());
            let outputs = |written: &mut Written, record| {
                written.entry(time_ms).or_default().push(record);
            };
            for (room, emojis) in turn.changed.by_ref() {
                if emojis > totals.schedule.small_emojis() {
                    totals.changed(room, emojis, window);
                    *left = left.saturating_sub(1);
                } else {
                    // It is small again, or the limit is another one than before.
                    totals.schedule.remove(room);
                    let record = totals.record(room, time_ms, read(room, time_ms, left));
                    outputs(written, record);
                }
                if *left == 0 {
                    return false;
                }
            }
            while let Some(due) = totals.schedule.take(window, turn.spent) {
                if exceeds_retention(due.last.start, window.start, totals.rules.retention_ms) {
                    // The totals have expired. No record is written, even if the room is not removed yet: when it is
                    // removed depends on other rooms, and records must not.
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        return false;
                    }
                    continue;
                }
                turn.spent += totals_bytes(due.emojis);
                let record = totals.due_record(due, read(due.room, time_ms, left));
                outputs(written, record);
                if *left == 0 {
                    return false;
                }
            }
            totals.notify(time_ms, written);
            totals.next_ms = window.end;
            self.window = None;
            if *left == 0 {
                return false;
            }
        }
    }
}

/// Reads single sums, by a cursor for each batch: differential's cursor over several batches cannot seek a value once
/// one of them has no more keys.
struct SingleSums<'a>(Vec<(<TotalsBatch as Navigable>::Cursor, &'a TotalsBatch)>);

impl<'a> SingleSums<'a> {
    fn new(batches: &'a [TotalsBatch]) -> SingleSums<'a> {
        SingleSums(batches.iter().map(|it| (it.cursor(), it)).collect())
    }

    /// The sum of an emoji in a room; rooms are asked for in their order.
    fn sum(&mut self, room: RoomNumber, emoji: EmojiId) -> i64 {
        let mut sum = 0;
        for (cursor, batch) in &mut self.0 {
            cursor.seek_key(batch, &room);
            if cursor.get_key(batch) == Some(&room) {
                cursor.seek_val(batch, &emoji);
                if cursor.get_val(batch) == Some(&emoji) {
                    cursor.map_times(batch, |_, diff| sum += diff);
                }
            }
        }
        sum
    }
}

fn counts(sums: &Sums<'_, EmojiId>) -> Vec<(Emoji, u64)> {
    let count = |(id, count): &(&EmojiId, i64)| Some((Emoji::from_id(**id)?, count.unsigned_abs()));
    sums.iter().filter_map(count).collect()
}

impl RoomTotals {
    /// How many emojis it has.
    pub fn emojis(&self) -> usize {
        self.counts.len() + self.unnamed.len()
    }

    /// The record of them.
    pub fn record(&self) -> TotalsRecord {
        let count = |(emoji, count): &(Emoji, u64)| Count {
            emoji: *emoji,
            count: *count,
        };
        let mut named: Vec<Count> = self.counts.iter().map(count).collect();
        sort_counts(&mut named, |count| (count.count, count.emoji));
        let of_unnamed = self.unnamed.iter().map(|count| count.count);
        let all = named.iter().map(|count| count.count).chain(of_unnamed);
        TotalsRecord {
            room: self.room.clone(),
            window: self.window,
            // Saturating: those that cannot be named are of a record that any program may have written.
            total: all.fold(0, u64::saturating_add),
            counts: TotalCounts {
                named,
                unnamed: self.unnamed.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;

    #[test]
    fn the_records_of_many_rooms_are_written_in_several_steps_and_none_is_left_out() {
        const SIZE_MS: u64 = 2_000;
        const ROOMS: usize = 40;
        let emojis: Vec<Emoji> = (0..6).filter_map(Emoji::from_id).collect();
        timely::execute_directly(move |worker| {
            let written = Rc::<RefCell<Vec<RoomTotals>>>::default();
            let seen = written.clone();
            let (mut input, probe) = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input();
                let rules = TotalsRules {
                    size: WindowSize::from_ms(SIZE_MS).unwrap(),
                    pace: TotalsPace::default(),
                    retention_ms: u64::MAX,
                    span_ms: SIZE_MS,
                    finals_kept_ms: None,
                    final_until_ms: 0,
                    resets: 0,
                    max_step_counts: 4,
                };
                let totals = totals(finals, Vec::new(), rules, probe::Handle::new());
                let outputs = totals.outputs.inspect(move |output| {
                    if let TotalsOutput::Record(record) = output {
                        seen.borrow_mut().push(record.clone());
                    }
                });
                (input, outputs.probe().0)
            });
            for window in 1..3 {
                let start_ms = window * SIZE_MS;
                input.advance_to(start_ms);
                for room in 0..ROOMS {
                    input.send(Closed {
                        room: Room::new(&format!("room-{room}")).unwrap(),
                        window: WindowSize::from_ms(SIZE_MS).unwrap().window_of(start_ms),
                        counts: emojis.iter().map(|emoji| (*emoji, 2)).collect(),
                        begins: false,
                    });
                }
                input.advance_to(start_ms + SIZE_MS);
                let mut records = 0;
                while probe.less_than(&(start_ms + SIZE_MS)) {
                    worker.step();
                    let step = written.take();
                    // A room has more counts than a step handles.
                    assert!(step.len() <= 1, "{} records in a step", step.len());
                    let counts = step.iter().flat_map(|record| &record.counts);
                    assert!(counts.clone().all(|(_, count)| *count == 2 * window));
                    assert_eq!(counts.count(), step.len() * emojis.len());
                    records += step.len();
                }
                assert_eq!(records, ROOMS);
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }
}
