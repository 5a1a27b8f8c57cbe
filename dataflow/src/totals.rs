//! Totals per room, kept by differential dataflow behind the pre-aggregation.
//!
//! A final adds its counts as differences at its window's time; the accumulated differences as of a
//! window are the totals as of it. History before the frontier is consolidated away, so memory holds
//! one count for each room and emoji.

use differential_dataflow::AsCollection;
use emostream_model::{Count, Emoji, Room, TotalsRecord, WindowRecord, WindowSize, sort_counts};
use timely::dataflow::{
    StreamVec,
    operators::{Concat, ToStream, vec::Map},
};

use crate::stamp::additions;

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
        .map(|(room, emoji, count)| ((room, emoji), 0, count as i64))
        .to_stream(finals.scope());
    let counted = finals.flat_map(
        |WindowRecord {
             room,
             window,
             counts,
             ..
         }| {
            let count = move |tally: emostream_model::Tally| {
                (
                    (room.clone(), tally.emoji),
                    window.start,
                    tally.count as i64,
                )
            };
            counts.into_iter().map(count)
        },
    );
    let totals = counted.concat(recovered).as_collection().reduce_named(
        "totals",
        |_room, emojis, totals| {
            let counts: Vec<(Emoji, i64)> = emojis.iter().map(|(e, count)| (**e, *count)).collect();
            totals.push((counts, 1_isize));
        },
    );
    additions(totals).flat_map(move |((room, counts), start_ms)| {
        let news = start_ms >= final_until_ms && start_ms > 0;
        news.then(|| record(room, &counts, size, start_ms))
    })
}

fn record(room: Room, counts: &[(Emoji, i64)], size: WindowSize, start_ms: u64) -> TotalsRecord {
    let count = |(emoji, count): &(Emoji, i64)| Count {
        emoji: *emoji,
        count: count.unsigned_abs(),
    };
    let mut counts: Vec<Count> = counts.iter().map(count).collect();
    sort_counts(&mut counts, |count| (count.count, count.emoji));
    TotalsRecord {
        room,
        window: size.window_of(start_ms),
        total: counts.iter().map(|count| count.count).sum(),
        counts,
    }
}
