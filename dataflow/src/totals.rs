//! Totals per room, kept by differential dataflow behind the pre-aggregation.
//!
//! A final adds its counts as differences at its window's time; the accumulated differences as of a
//! window are the totals as of it. History before the frontier is consolidated away, so memory holds
//! one count for each room and emoji.

use differential_dataflow::{
    hashable::Hashable,
    operators::arrange::arrangement::arrange_core,
    trace::implementations::{ValBatcher, ValSpine},
};
use emostream_model::{Count, Emoji, Room, TotalsRecord, WindowSize, sort_counts};
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::{Exchange, Pipeline},
        operators::{Concat, ToStream, generic::Operator},
    },
};

use crate::{
    follow::follow,
    slide::{EmojiId, RoomChange, Rooms},
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
}

/// The totals of each room that a window changed, as of that window.
///
/// `recovered` are the totals as of `final_until_ms`; they count, and are not emitted again.
pub fn totals<'scope>(
    finals: StreamVec<'scope, u64, Closed>,
    recovered: Vec<(Room, Emoji, u64)>,
    final_until_ms: u64,
) -> StreamVec<'scope, u64, RoomTotals> {
    let recovered: StreamVec<'scope, u64, _> = recovered
        .into_iter()
        .map(|(room, emoji, count)| Closed {
            room,
            start_ms: 0,
            counts: [(emoji, count)].into(),
        })
        .to_stream(finals.scope());
    let rooms = Rooms::default();
    // The numbers are this worker's own, so the changes stay where they are.
    let sums = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        changes(finals.concat(recovered), rooms.clone()),
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
        })
    })
}

/// Counts as changes of sums by numbers, which are sorted several times as fast as names.
fn changes<'scope>(
    counted: StreamVec<'scope, u64, Closed>,
    rooms: Rooms,
) -> StreamVec<'scope, u64, RoomChange> {
    // As tumbling does: a final stays where it is.
    let by_room = Exchange::new(|counted: &Closed| counted.room.hashed());
    counted.unary::<CapacityContainerBuilder<_>, _, _, _>(by_room, "number", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|stamp, data| {
                let mut session = output.session(&stamp);
                for counted in data.flat_map(|data| data.drain(..)) {
                    let room = rooms.number(&counted.room);
                    let change = |(emoji, count): &(Emoji, u64)| {
                        ((room, emoji.id()), counted.start_ms, *count as i64)
                    };
                    session.give_iterator(counted.counts.iter().map(change));
                }
            });
        }
    })
}

impl RoomTotals {
    /// The record of them.
    pub fn record(&self, size: WindowSize) -> TotalsRecord {
        let count = |(emoji, count): &(Emoji, u64)| Count {
            emoji: *emoji,
            count: *count,
        };
        let mut counts: Vec<Count> = self.counts.iter().map(count).collect();
        sort_counts(&mut counts, |count| (count.count, count.emoji));
        TotalsRecord {
            room: self.room.clone(),
            window: size.window_of(self.start_ms),
            total: counts.iter().map(|count| count.count).sum(),
            counts,
        }
    }
}
