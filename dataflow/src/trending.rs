//! Trending: the top emojis of each room in a sliding span, and the leaders across rooms.
//!
//! ```text
//!  finals ─▶ slide ─┬─ changes of a room's sums ──▶ reduce ─▶ its top emojis
//!                   └─ changes of all rooms' sums ─▶ reduce ─▶ the top emojis, the top rooms  (*)
//! ```
//!
//! A record says what the span that ends with a window holds. It is a function of the finals alone: it
//! is written at every window at which a top changes, by finals or by what leaves the span, and the
//! last one of a room has an empty top. Differential dataflow keeps the current sums.
//!
//! Invariant: which records there are does not depend on the workers, nor on where a run began.

use std::cmp::Reverse;

use differential_dataflow::{
    AsCollection,
    operators::arrange::arrangement::arrange_core,
    trace::implementations::{ValBatcher, ValSpine},
};
use emostream_model::{
    AllRooms, Count, Emoji, LeadersRecord, Room, RoomCount, Trending, TrendingRecord, WindowRecord,
    WindowSize, sort_counts,
};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{Concat, ToStream, vec::Map},
};

use crate::{
    slide::{EmojiId, Leader, LeaderChange, RoomChange, RoomNumber, Rooms, Stay, slide},
    stamp::follow,
};

/// What trending goes by.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// The size of the windows.
    pub size: WindowSize,
    /// How long the span is: some windows.
    pub span_ms: u64,
    /// How many emojis and rooms are shown.
    pub top: usize,
}

impl Span {
    /// When counts of the window that began at `start_ms` leave the span: the start of the first window
    /// whose span does not hold it.
    pub fn leaves_ms(&self, start_ms: u64) -> u64 {
        self.size.floor(start_ms.saturating_add(self.span_ms))
    }

    fn stay(&self, closed: WindowRecord) -> Stay {
        let start_ms = closed.window.start;
        let count = |tally: &emostream_model::Tally| (tally.emoji, tally.count);
        Stay {
            room: closed.room,
            from_ms: start_ms,
            until_ms: self.leaves_ms(start_ms),
            counts: closed.counts.iter().map(count).collect(),
        }
    }
}

/// The records of each window that changes a top.
///
/// `recovered` is what lies in the span as of `final_until_ms`, from time 0 on; it counts, and is not
/// told again.
pub fn trending<'scope>(
    finals: StreamVec<'scope, u64, WindowRecord>,
    recovered: Vec<Stay>,
    final_until_ms: u64,
    span: Span,
) -> StreamVec<'scope, u64, Trending> {
    let recovered = recovered.into_iter().to_stream(finals.scope());
    let stays = finals
        .map(move |closed| span.stay(closed))
        .concat(recovered);
    let rooms = Rooms::default();
    let (by_room, across) = slide(stays, rooms.clone());
    let news = move |start_ms: u64| start_ms >= final_until_ms;

    let tops = room_tops(by_room, span.top).flat_map(move |((room, top), start_ms)| {
        news(start_ms).then(|| {
            Trending::Room(TrendingRecord {
                room: rooms.room(room),
                window: span.size.window_of(start_ms),
                span_ms: span.span_ms,
                top: counts(top),
            })
        })
    });
    let leaders = leaders(across, span.top).flat_map(move |((_, (emojis, rooms)), start_ms)| {
        let count = |(room, count): (Room, i64)| RoomCount {
            room,
            count: count.unsigned_abs(),
        };
        news(start_ms).then(|| {
            Trending::All(LeadersRecord {
                room: AllRooms,
                window: span.size.window_of(start_ms),
                span_ms: span.span_ms,
                top: counts(emojis),
                rooms: rooms.into_iter().map(count).collect(),
            })
        })
    });
    tops.concat(leaders)
}

/// The most frequent emojis of a span, the most frequent first.
type Top = Vec<(Emoji, i64)>;

/// The top emojis of all rooms, and the rooms with the most reactions.
type Leading = (Top, Vec<(Room, i64)>);

fn room_tops(
    changes: StreamVec<'_, u64, RoomChange>,
    most: usize,
) -> StreamVec<'_, u64, ((RoomNumber, Top), u64)> {
    // The numbers are this worker's own, so the changes stay where they are.
    let sums = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        changes,
        Pipeline,
        "trending sums",
        ValBatcher::new,
    );
    follow(sums, "trending", move |sums: &[(&EmojiId, i64)]| {
        let emoji = |(id, count): &(&EmojiId, i64)| Some((Emoji::from_id(**id)?, *count));
        top(sums.iter().filter_map(emoji).collect(), most)
    })
}

fn leaders(
    changes: StreamVec<'_, u64, LeaderChange>,
    most: usize,
) -> StreamVec<'_, u64, (((), Leading), u64)> {
    let sums = changes.as_collection().arrange_by_key_named("leader sums");
    follow(sums, "leaders", move |sums: &[(&Leader, i64)]| {
        let (mut emojis, mut rooms) = (Vec::new(), Vec::new());
        for (leader, count) in sums {
            match leader {
                Leader::Emoji(emoji) => emojis.push((*emoji, *count)),
                Leader::Room(room) => rooms.push((room, *count)),
            }
        }
        rooms.sort_unstable_by_key(|(room, count)| (Reverse(*count), *room));
        // Cloned only if it is shown.
        let rooms = rooms.into_iter().take(most);
        let rooms = rooms.map(|(room, count)| (room.clone(), count));
        (top(emojis, most), rooms.collect())
    })
}

fn top(mut counts: Top, most: usize) -> Top {
    sort_counts(&mut counts, |(emoji, count)| (count.unsigned_abs(), *emoji));
    counts.truncate(most);
    counts
}

fn counts(top: Top) -> Vec<Count> {
    let count = |(emoji, count): (Emoji, i64)| Count {
        emoji,
        count: count.unsigned_abs(),
    };
    top.into_iter().map(count).collect()
}
