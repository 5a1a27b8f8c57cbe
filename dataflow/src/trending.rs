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
    AllRooms, Count, Emoji, LeadersRecord, Room, RoomCount, Trending, TrendingRecord, WindowSize,
    sort_counts,
};
use timely::dataflow::{
    StreamVec,
    channels::pact::Pipeline,
    operators::{Concat, ToStream, probe, vec::Map},
};

use crate::{
    follow::{Sums, follow},
    rooms::Rooms,
    slide::{EmojiId, Leader, Stay, slide},
    tumble::Closed,
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

    fn stay(&self, closed: Closed) -> Stay {
        let leaves_ms = self.leaves_ms(closed.window.start);
        Stay {
            room: closed.room,
            from_ms: closed.window.last_ms(),
            until_ms: self.size.window_of(leaves_ms).last_ms(),
            counts: closed.counts,
        }
    }
}

/// The records of each window that changes a top.
///
/// `recovered` is what lies in the span as of `final_until_ms`, from time 0 on; it counts, and is not
/// emitted again. `durable` is the probe of committed results. A step handles about `max_step_counts` counts.
pub fn trending<'scope>(
    finals: StreamVec<'scope, u64, Closed>,
    recovered: Vec<Stay>,
    final_until_ms: u64,
    span: Span,
    max_step_counts: usize,
    durable: probe::Handle<u64>,
) -> StreamVec<'scope, u64, Trending> {
    let recovered = recovered.into_iter().to_stream(finals.scope());
    let stays = finals
        .map(move |closed| span.stay(closed))
        .concat(recovered);
    let rooms = Rooms::default();
    let (by_room, across) = slide(stays, rooms.clone(), max_step_counts, durable);
    // The numbers are this worker's own, so the changes stay where they are.
    let by_room = arrange_core::<_, _, ValBatcher<_, _, _, _>, ValSpine<_, _, _, _>>(
        by_room,
        Pipeline,
        "trending sums",
        ValBatcher::new,
    );
    let across = across.as_collection().arrange_by_key_named("leader sums");
    let news = move |time_ms: u64| time_ms >= final_until_ms;

    let tops = follow(
        by_room,
        "trending",
        max_step_counts,
        move |room, before, after, time_ms| {
            let top = news(time_ms).then(|| changed(room_top(before, span), room_top(after, span)));
            let top = top??;
            Some(Trending::Room(TrendingRecord {
                room: rooms.room(*room),
                window: span.size.window_of(time_ms),
                span_ms: span.span_ms,
                top: counts(top),
            }))
        },
    );
    let leaders = follow(
        across,
        "leaders",
        max_step_counts,
        move |(), before, after, time_ms| {
            let lead = news(time_ms).then(|| changed(leading(before, span), leading(after, span)));
            let (emojis, rooms) = lead??;
            let count = |(room, count): (Room, i64)| RoomCount {
                room,
                count: count.unsigned_abs(),
            };
            Some(Trending::All(LeadersRecord {
                room: AllRooms,
                window: span.size.window_of(time_ms),
                span_ms: span.span_ms,
                top: counts(emojis),
                rooms: rooms.into_iter().map(count).collect(),
            }))
        },
    );
    tops.concat(leaders)
}

/// What it is now, if it was something else.
fn changed<T: PartialEq>(before: T, after: T) -> Option<T> {
    (before != after).then_some(after)
}

/// The most frequent emojis of a span, the most frequent first.
type Top = Vec<(Emoji, i64)>;

/// The top emojis of all rooms, and the rooms with the most reactions.
type Leading = (Top, Vec<(Room, i64)>);

fn room_top(sums: &Sums<'_, EmojiId>, span: Span) -> Top {
    let emoji = |(id, count): &(&EmojiId, i64)| Some((Emoji::from_id(**id)?, *count));
    top(sums.iter().filter_map(emoji).collect(), span.top)
}

fn leading(sums: &Sums<'_, Leader>, span: Span) -> Leading {
    let (mut emojis, mut rooms) = (Vec::new(), Vec::new());
    for (leader, count) in sums {
        match leader {
            Leader::Emoji(emoji) => emojis.push((*emoji, *count)),
            Leader::Room(room) => rooms.push((room, *count)),
        }
    }
    rooms.sort_unstable_by_key(|(room, count)| (Reverse(*count), *room));
    // Cloned only if it is shown.
    let rooms = rooms.into_iter().take(span.top);
    let rooms = rooms.map(|(room, count)| (room.clone(), count));
    (top(emojis, span.top), rooms.collect())
}

fn top(mut counts: Top, most: usize) -> Top {
    let key = |(emoji, count): &(Emoji, i64)| (count.unsigned_abs(), *emoji);
    if (1..counts.len()).contains(&most) {
        // What does not show needs no order.
        counts.select_nth_unstable_by_key(most, |entry| {
            let (count, emoji) = key(entry);
            (Reverse(count), emoji)
        });
    }
    counts.truncate(most);
    sort_counts(&mut counts, key);
    counts
}

fn counts(top: Top) -> Vec<Count> {
    let count = |(emoji, count): (Emoji, i64)| Count {
        emoji,
        count: count.unsigned_abs(),
    };
    top.into_iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use std::{cell::RefCell, rc::Rc};

    use timely::dataflow::operators::{inspect::Inspect, probe::Probe, vec::Input};

    use super::*;

    fn closed(room: &str, start_ms: u64) -> Closed {
        Closed {
            room: Room::new(room).unwrap(),
            window: WindowSize::from_ms(2000).unwrap().window_of(start_ms),
            counts: (0..4)
                .filter_map(Emoji::from_id)
                .map(|it| (it, 1))
                .collect(),
            begins: false,
        }
    }

    /// The room leaves the span, and returns before that is committed, while others keep the operators busy for many
    /// steps.
    #[test]
    fn the_records_of_a_room_that_returns_come_in_order() {
        timely::execute_directly(|worker| {
            let durable = probe::Handle::new();
            let seen: Rc<RefCell<Vec<(String, u64, usize)>>> = Rc::default();
            let (of_room, probed) = (seen.clone(), durable.clone());
            let mut input = worker.dataflow(|scope| {
                let (input, finals) = scope.new_input();
                let span = Span {
                    size: WindowSize::from_ms(2000).unwrap(),
                    span_ms: 6000,
                    top: 10,
                };
                trending(finals, Vec::new(), 0, span, 4, probed.clone())
                    .inspect(move |record| {
                        if let Trending::Room(record) = record {
                            let shown = (record.window.start, record.top.len());
                            let room = record.room.to_string();
                            of_room.borrow_mut().push((room, shown.0, shown.1));
                        }
                    })
                    .probe_with(&probed);
                input
            });
            // Their numbers are lower than that of the room.
            (0..30).for_each(|nth| input.send(closed(&format!("early-{nth}"), 0)));
            for (start_ms, rooms) in [(4000, vec!["room".to_owned()]), (8000, vec![])] {
                input.advance_to(start_ms);
                while durable.less_than(&start_ms) {
                    worker.step();
                }
                rooms
                    .iter()
                    .for_each(|room| input.send(closed(room, start_ms)));
            }
            (0..25).for_each(|nth| input.send(closed(&format!("late-{nth}"), 8000)));
            input.advance_to(10_000);
            while seen.borrow().iter().all(|it| it.1 < 8000) {
                worker.step();
            }
            // The room leaves the span.
            input.advance_to(12_000);
            for _ in 0..3 {
                worker.step();
            }
            input.send(closed("room", 12_000));
            input.advance_to(14_000);
            while durable.less_than(&14_000) {
                worker.step();
            }
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
            let seen = seen.borrow();
            let of_room = seen.iter().filter(|it| it.0 == "room");
            let of_room: Vec<(u64, usize)> = of_room.map(|it| (it.1, it.2)).collect();
            assert_eq!(of_room, [(4000, 4), (10_000, 0), (12_000, 4)]);
        });
    }
}
