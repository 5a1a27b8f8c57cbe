//! Totals per room, kept by differential dataflow behind the pre-aggregation.
//!
//! A final adds its counts as differences at its window's time; the accumulated differences as of a
//! window are the totals as of it. History before the frontier is consolidated away, so memory holds
//! one count for each room and emoji.
//!
//! Counts of emojis that this build does not know lie beside it. They never change, since reactions with such emojis
//! are rejected, but each record of their room repeats them: without them it would lose what another build counted.

use std::{cell::RefCell, rc::Rc};

use differential_dataflow::{
    hashable::Hashable,
    operators::arrange::arrangement::arrange_core,
    trace::implementations::{ValBatcher, ValSpine},
};
use emostream_model::{
    Count, Emoji, Room, TotalCounts, TotalsRecord, UnnamedCount, WindowSize, sort_counts,
};
use foldhash::HashMap;
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::{Exchange, Pipeline},
        operators::{ToStream, generic::Operator},
    },
};

use crate::{
    follow::follow,
    slide::{EmojiId, RoomChange, RoomNumber, Rooms},
    tumble::Closed,
};

/// All that a room has ever counted, as of a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomTotals {
    /// Which room.
    pub room: Room,
    /// The start of the window.
    pub start_ms: u64,
    /// How many of each emoji.
    pub counts: Vec<(Emoji, u64)>,
    /// How many of those that this build does not know.
    pub unnamed: Vec<UnnamedCount>,
}

/// The counts that this build cannot name, of the rooms that have any.
type Unnamed = Rc<RefCell<HashMap<RoomNumber, Vec<UnnamedCount>>>>;

/// The totals of each room that a window changed, as of that window.
///
/// `recovered` are the totals as of `final_until_ms`; they count, and are not emitted again.
pub fn totals<'scope>(
    finals: StreamVec<'scope, u64, Closed>,
    recovered: Vec<RoomTotals>,
    final_until_ms: u64,
) -> StreamVec<'scope, u64, RoomTotals> {
    let recovered = recovered.into_iter().to_stream(finals.scope());
    let (rooms, unnamed) = (Rooms::default(), Unnamed::default());
    // The numbers are this worker's own, so the changes stay where they are.
    let sums = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        changes(finals, recovered, rooms.clone(), unnamed.clone()),
        Pipeline,
        "total sums",
        ValBatcher::new,
    );
    let count = |(id, count): &(&EmojiId, i64)| Some((Emoji::from_id(**id)?, count.unsigned_abs()));
    follow(sums, "totals", move |room, _, sums, start_ms| {
        let news = start_ms >= final_until_ms && start_ms > 0;
        news.then(|| RoomTotals {
            room: rooms.room(*room),
            start_ms,
            counts: sums.iter().filter_map(count).collect(),
            unnamed: unnamed.borrow().get(room).cloned().unwrap_or_default(),
        })
    })
}

/// Counts as changes of sums by numbers, which are sorted several times as fast as names. What cannot be named is put
/// aside, before time passes the beginning.
fn changes<'scope>(
    finals: StreamVec<'scope, u64, Closed>,
    recovered: StreamVec<'scope, u64, RoomTotals>,
    rooms: Rooms,
    unnamed: Unnamed,
) -> StreamVec<'scope, u64, RoomChange> {
    // As tumbling does: a final stays where it is.
    let by_room = Exchange::new(|closed: &Closed| closed.room.hashed());
    let recovered_by_room = Exchange::new(|totals: &RoomTotals| totals.room.hashed());
    finals.binary::<_, CapacityContainerBuilder<_>, _, _, _, _>(
        recovered,
        by_room,
        recovered_by_room,
        "number",
        move |_, _| {
            move |finals, recovered, output| {
                finals.for_each_stamp(|stamp, data| {
                    let mut session = output.session(&stamp);
                    for closed in data.flat_map(|data| data.drain(..)) {
                        let room = rooms.number(&closed.room);
                        session.give_iterator(changes_of(room, closed.start_ms, &closed.counts));
                    }
                });
                recovered.for_each_stamp(|stamp, data| {
                    let mut session = output.session(&stamp);
                    for totals in data.flat_map(|data| data.drain(..)) {
                        let room = rooms.number(&totals.room);
                        session.give_iterator(changes_of(room, 0, &totals.counts));
                        if !totals.unnamed.is_empty() {
                            unnamed.borrow_mut().insert(room, totals.unnamed);
                        }
                    }
                });
            }
        },
    )
}

fn changes_of(
    room: RoomNumber,
    start_ms: u64,
    counts: &[(Emoji, u64)],
) -> impl Iterator<Item = RoomChange> {
    let counts = counts.iter();
    counts.map(move |(emoji, count)| ((room, emoji.id()), start_ms, *count as i64))
}

impl RoomTotals {
    /// The record of them.
    pub fn record(&self, size: WindowSize) -> TotalsRecord {
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
            window: size.window_of(self.start_ms),
            // Saturating: those that cannot be named are of a record that any program may have written.
            total: all.fold(0, u64::saturating_add),
            counts: TotalCounts {
                named,
                unnamed: self.unnamed.clone(),
            },
        }
    }
}
