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
use emostream_model::{Count, Emoji, Room, TotalsRecord, WindowRecord, WindowSize, sort_counts};
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::{Exchange, Pipeline},
        operators::{Concat, ToStream, generic::Operator, vec::Map},
    },
};

use crate::{
    slide::{EmojiId, RoomChange, Rooms},
    stamp::follow,
};

/// Counts of a room, on their way to its worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Counted {
    room: Room,
    start_ms: u64,
    counts: Vec<(Emoji, u64)>,
}

/// The totals of each room that a window changed, as of that window.
///
/// `recovered` are the totals as of `final_until_ms`; they count, and are not emitted again.
pub fn totals<'scope>(
    finals: StreamVec<'scope, u64, WindowRecord>,
    recovered: Vec<(Room, Emoji, u64)>,
    final_until_ms: u64,
    size: WindowSize,
) -> StreamVec<'scope, u64, TotalsRecord> {
    let recovered: StreamVec<'scope, u64, _> = recovered
        .into_iter()
        .map(|(room, emoji, count)| Counted {
            room,
            start_ms: 0,
            counts: vec![(emoji, count)],
        })
        .to_stream(finals.scope());
    let counted = finals.map(|closed| Counted {
        room: closed.room,
        start_ms: closed.window.start,
        counts: closed.counts.iter().map(|t| (t.emoji, t.count)).collect(),
    });
    let rooms = Rooms::default();
    // The numbers are this worker's own, so the changes stay where they are.
    let sums = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        changes(counted.concat(recovered), rooms.clone()),
        Pipeline,
        "total sums",
        ValBatcher::new,
    );
    let totals = follow(sums, "totals", |sums: &[(&EmojiId, i64)]| {
        let count = |(id, count): &(&EmojiId, i64)| (**id, *count);
        sums.iter().map(count).collect::<Vec<_>>()
    });
    totals.flat_map(move |((room, counts), start_ms)| {
        let news = start_ms >= final_until_ms && start_ms > 0;
        news.then(|| record(rooms.room(room), &counts, size, start_ms))
    })
}

/// Counts as changes of sums by numbers, which are sorted several times as fast as names.
fn changes<'scope>(
    counted: StreamVec<'scope, u64, Counted>,
    rooms: Rooms,
) -> StreamVec<'scope, u64, RoomChange> {
    // As tumbling does: a final stays where it is.
    let by_room = Exchange::new(|counted: &Counted| counted.room.hashed());
    counted.unary::<CapacityContainerBuilder<_>, _, _, _>(by_room, "number", move |_, _| {
        move |input, output| {
            input.for_each_stamp(|stamp, data| {
                let mut session = output.session(&stamp);
                for counted in data.flat_map(|data| data.drain(..)) {
                    let room = rooms.number(&counted.room);
                    let change = |(emoji, count): (Emoji, u64)| {
                        ((room, emoji.id()), counted.start_ms, count as i64)
                    };
                    session.give_iterator(counted.counts.into_iter().map(change));
                }
            });
        }
    })
}

fn record(room: Room, counts: &[(EmojiId, i64)], size: WindowSize, start_ms: u64) -> TotalsRecord {
    let count = |(id, count): &(EmojiId, i64)| {
        let emoji = Emoji::from_id(*id)?;
        let count = count.unsigned_abs();
        Some(Count { emoji, count })
    };
    let mut counts: Vec<Count> = counts.iter().filter_map(count).collect();
    sort_counts(&mut counts, |count| (count.count, count.emoji));
    TotalsRecord {
        room,
        window: size.window_of(start_ms),
        total: counts.iter().map(|count| count.count).sum(),
        counts,
    }
}
