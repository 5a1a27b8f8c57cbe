//! A room as its publisher or relay knows it: a ring of finals, the open windows' newest live tallies, totals,
//! what is trending.
//!
//! Pure: results come in as values, and what each subscriber gets is the [`crate::room::cursor`]'s business.
//!
//! Invariants: finals lie in the ring in the order of their offsets, each once, all of one partition;
//! everything above [`RoomState::floor`] and up to the newest final is in the ring; live
//! tallies are of windows of one size that begin where the newest final ends, or later: what was open when a
//! dataflow came back with other windows is never shown beside those.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use emostream_model::{Count, Frame, ResultId, TrendingRecord, Window, WindowRecord, top};

use crate::{
    frame::encoded::Encoded,
    room::{result_order::ResultOrder, totals::RoomTotals},
};

/// The most finals a ring holds: ten minutes of windows as short as 150 ms.
const RING_FINALS: usize = 4096;

/// The most open windows whose live tally is kept: more are open only while a dataflow catches up, and
/// then the newest are what people want.
const OPEN_WINDOWS: usize = 4;

/// A final in the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Final {
    pub(crate) id: ResultId,
    pub(crate) window: Window,
    /// When it was written to the log, Unix milliseconds.
    pub(crate) written_ms: u64,
    pub(crate) frame: Encoded,
}

/// The newest tally of an open window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) window: Window,
    /// When the dataflow emitted it, Unix milliseconds.
    emitted_at: u64,
    /// Rises with each live tally of the room.
    pub(crate) version: u64,
    pub(crate) frame: Encoded,
}

/// What is trending, or that nothing is any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trending {
    /// Rises with each of the room.
    pub(crate) version: u64,
    /// The last window of its span.
    pub(super) order: ResultOrder,
    /// Its top is empty.
    ended: bool,
    pub(crate) frame: Encoded,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RoomState {
    pub(super) finals: VecDeque<Arc<Final>>,
    /// Finals at or below this are not in the ring, and may have been.
    pub(super) floor: Option<ResultId>,
    pub(super) losses: u64,
    pub(super) live: BTreeMap<u64, Arc<Live>>,
    live_version: u64,
    pub(super) totals: RoomTotals,
    /// The number of backward resets before the newest final.
    pub(super) resets: u64,
    /// Kept when it has ended, for those who resume and still show the one before.
    pub(super) trending: Option<Arc<Trending>>,
}

impl RoomState {
    /// A room with what it had counted before its first final.
    pub(crate) fn new(totals: RoomTotals) -> Self {
        Self {
            totals,
            ..Self::default()
        }
    }

    /// Takes a final in; `false` if it is known already. `resets` is the number of backward resets before it:
    /// `None` from an upstream, which passes on what it took in itself, in that order. `unread` is the last
    /// offset of its partition that was never read.
    pub(crate) fn push_final(
        &mut self,
        id: ResultId,
        written_ms: u64,
        record: WindowRecord,
        resets: Option<u64>,
        unread: Option<u64>,
    ) -> bool {
        let resets = resets.unwrap_or_else(|| self.resets_of(id, record.window));
        if self.knows(id, ResultOrder::new(resets, record.window)) {
            return false;
        }
        if self.partition().is_some_and(|mine| mine != id.partition) {
            self.move_on();
        }
        let partition = id.partition;
        self.raise_floor(unread.map(|offset| ResultId { partition, offset }));
        self.totals.add(&record);
        let window = record.window;
        let frame = Encoded::new(&final_frame(id, written_ms, record, &self.totals.counts()));
        let kept = Final {
            id,
            window,
            written_ms,
            frame,
        };
        self.keep(resets, Arc::new(kept));
        true
    }

    /// The number of backward resets before a final that follows what is kept: in a partition windows begin
    /// earlier again only after another one.
    pub(super) fn resets_of(&self, id: ResultId, window: Window) -> u64 {
        let back = |newest: &Arc<Final>| {
            newest.id.partition == id.partition && window.start <= newest.window.start
        };
        self.resets + u64::from(self.newest().is_some_and(back))
    }

    /// Puts a final behind all others; what was open up to its end is not any more, nor anything that was open
    /// before a backward reset.
    pub(super) fn keep(&mut self, resets: u64, kept: Arc<Final>) {
        if resets > self.resets {
            self.resets = resets;
            self.live.clear();
        }
        self.live = self.live.split_off(&kept.window.end);
        self.finals.push_back(kept);
        while self.finals.len() > RING_FINALS {
            self.drop_oldest();
        }
    }

    /// Whether a final was taken in before. Offsets tell within a partition; a room that has moved to
    /// another one, since the topic was given more, still closes its windows in order.
    fn knows(&self, id: ResultId, order: ResultOrder) -> bool {
        if self.partition() == Some(id.partition) {
            let kept = self.newest().map(|newest| newest.id.offset);
            let seen = kept.max(self.floor.map(|floor| floor.offset));
            return seen.is_some_and(|seen| id.offset <= seen);
        }
        self.order().is_some_and(|newest| order <= newest)
    }

    /// The number of backward resets before the newest final.
    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    /// The order of the newest final kept.
    fn order(&self) -> Option<ResultOrder> {
        let newest = self.newest()?;
        Some(ResultOrder::new(self.resets, newest.window))
    }

    /// Whether a final shows that these results are of another log than those before, where the same
    /// offsets mean something else: it is none that was taken in, and yet lies among them.
    pub(crate) fn contradicts(&self, id: ResultId, window: Window) -> bool {
        let Some(newest) = self
            .newest()
            .filter(|newest| newest.id.partition == id.partition && id.offset <= newest.id.offset)
        else {
            return false;
        };
        match self.final_after(id.offset.checked_sub(1)) {
            Some(kept) if kept.id == id => kept.window != window,
            _ => {
                let gone = self.floor.is_some_and(|floor| id.offset <= floor.offset);
                // After a backward reset later windows lie before earlier ones.
                !gone || self.resets == 0 && window.start > newest.window.start
            }
        }
    }

    /// Finals of another partition follow; ids do not compare over that.
    pub(super) fn move_on(&mut self) {
        self.finals.clear();
        self.floor = None;
        self.losses += 1;
    }

    fn raise_floor(&mut self, to: Option<ResultId>) {
        let offset = |floor: Option<ResultId>| floor.map(|floor| floor.offset);
        if offset(to) > offset(self.floor) {
            self.floor = to;
        }
    }

    /// Takes a live tally in; `false` if some of its window is final, or a newer one is known.
    pub(crate) fn push_live(&mut self, record: WindowRecord) -> bool {
        let window = record.window;
        let Some(emitted_at) = record.emitted_at.filter(|_| !self.is_closed(window)) else {
            return false;
        };
        let unnamed = record.unnamed();
        let (counts, others) = top(&record.counts, |tally| tally.count);
        let frame = Encoded::new(&Frame::Live {
            room: record.room,
            window,
            emitted_at,
            total: record.total,
            counts,
            others: others.saturating_add(unnamed),
        });
        self.show_live(window, emitted_at, frame)
    }

    pub(super) fn is_closed(&self, window: Window) -> bool {
        let newest = self.newest();
        newest.is_some_and(|newest| window.start < newest.window.end)
    }

    pub(super) fn show_live(&mut self, window: Window, emitted_at: u64, frame: Encoded) -> bool {
        let known = self.live.get(&window.start);
        if known.is_some_and(|known| {
            known.window == window
                && (emitted_at < known.emitted_at
                    || emitted_at == known.emitted_at && known.frame == frame)
        }) {
            return false;
        }
        self.live_version += 1;
        let size = |window: Window| window.end.saturating_sub(window.start);
        self.live
            .retain(|_, live| size(live.window) == size(window));
        let live = Live {
            window,
            emitted_at,
            version: self.live_version,
            frame,
        };
        self.live.insert(window.start, Arc::new(live));
        while self.live.len() > OPEN_WINDOWS {
            self.live.pop_first();
        }
        true
    }

    /// Takes in what is trending; `false` if it is no newer than what is known.
    pub(crate) fn push_trending(&mut self, record: TrendingRecord) -> bool {
        // No `others`: a record holds a top alone, the rest of the span is not known here.
        let (top, _) = top(&record.top, |count| count.count);
        let ended = top.is_empty();
        let frame = Encoded::new(&Frame::Trending {
            room: record.room,
            span_ms: record.span_ms,
            top,
        });
        self.show_trending(ResultOrder::new(self.resets, record.window), ended, frame)
    }

    pub(super) fn show_trending(
        &mut self,
        order: ResultOrder,
        ended: bool,
        frame: Encoded,
    ) -> bool {
        let known = self.trending.as_ref();
        if known.is_some_and(|known| {
            order < known.order || order == known.order && known.frame == frame
        }) {
            return false;
        }
        self.trending = Some(Arc::new(Trending {
            version: self.trending_version() + 1,
            order,
            ended,
            frame,
        }));
        true
    }

    /// Forgets finals written before `before_ms`, and live tallies of windows that began before it.
    pub(crate) fn expire(&mut self, before_ms: u64) {
        while self
            .finals
            .front()
            .is_some_and(|oldest| oldest.written_ms < before_ms)
        {
            self.drop_oldest();
        }
        if self.finals.is_empty() {
            // A room may stay quiet for good; its ring's memory need not.
            self.finals = VecDeque::new();
        }
        self.live = self.live.split_off(&before_ms);
    }

    /// Forgets live tallies of windows that ended before `overdue_ms`.
    pub(crate) fn end_live(&mut self, overdue_ms: u64) {
        self.live.retain(|_, live| live.window.end >= overdue_ms);
    }

    /// Finals of `partition` up to `floor` were deleted before they were read.
    pub(crate) fn lose(&mut self, partition: u32, floor: u64) -> bool {
        let mine = self.partition() == Some(partition);
        if mine {
            let offset = floor;
            self.raise_floor(Some(ResultId { partition, offset }));
            self.losses += 1;
        }
        mine
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.finals.pop_front() {
            self.raise_floor(Some(oldest.id));
            self.losses += 1;
        }
    }

    /// Finals at or below this are not in the ring, and may have been.
    pub(crate) fn floor(&self) -> Option<ResultId> {
        self.floor
    }

    /// Rises whenever finals leave the ring, or are missed.
    pub(crate) fn losses(&self) -> u64 {
        self.losses
    }

    /// The partition of its finals, once there was one.
    pub(crate) fn partition(&self) -> Option<u32> {
        let newest = self.newest().map(|newest| newest.id);
        newest.or(self.floor).map(|id| id.partition)
    }

    /// The newest final kept.
    pub(crate) fn newest(&self) -> Option<&Arc<Final>> {
        self.finals.back()
    }

    /// The finals kept, oldest first.
    pub(crate) fn finals(&self) -> impl Iterator<Item = &Arc<Final>> {
        self.finals.iter()
    }

    /// The oldest final kept behind `offset`.
    pub(crate) fn final_after(&self, offset: Option<u64>) -> Option<&Arc<Final>> {
        let first = offset.map_or(0, |offset| {
            self.finals.partition_point(|kept| kept.id.offset <= offset)
        });
        self.finals.get(first)
    }

    /// The live tally that follows `version`, the oldest window first.
    pub(crate) fn live_after(&self, version: u64) -> Option<&Arc<Live>> {
        let newer = self.live.values().filter(|live| live.version > version);
        newer.min_by_key(|live| live.version)
    }

    /// The newest live tally of an open window.
    pub(crate) fn live(&self) -> Option<&Arc<Live>> {
        self.live.values().next_back()
    }

    /// What is trending.
    pub(crate) fn trending(&self) -> Option<&Arc<Trending>> {
        self.trending.as_ref().filter(|trending| !trending.ended)
    }

    /// What is trending, or that nothing is any more, if that is news behind `version`.
    pub(crate) fn trending_after(&self, version: u64) -> Option<&Arc<Trending>> {
        let known = self.trending.as_ref();
        known.filter(|known| known.version > version)
    }

    /// The version of the last that is known of what is trending; 0 for nothing.
    pub(crate) fn trending_version(&self) -> u64 {
        self.trending.as_ref().map_or(0, |known| known.version)
    }

    /// All that the room has counted, as of its newest final.
    pub(crate) fn totals(&self) -> &RoomTotals {
        &self.totals
    }

    /// Whether it has results to show now.
    pub(crate) fn is_active(&self) -> bool {
        !self.finals.is_empty() || !self.live.is_empty()
    }

    /// Whether nothing was counted in it, as far as is known.
    pub(crate) fn is_silent(&self) -> bool {
        !self.is_active() && self.totals.total() == 0 && self.trending().is_none()
    }
}

fn final_frame(id: ResultId, written_ms: u64, record: WindowRecord, totals: &[Count]) -> Frame {
    let unnamed = record.unnamed();
    let (counts, others) = top(&record.counts, |tally| tally.count);
    let (totals, totals_others) = top(totals, |count| count.count);
    Frame::Final {
        id,
        room: record.room,
        window: record.window,
        emitted_at: written_ms,
        total: record.total,
        counts,
        others: others.saturating_add(unnamed),
        totals,
        totals_others,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Emoji, Room, WindowSize, compress};

    fn record(nth: u64, emitted_at: Option<u64>) -> WindowRecord {
        let fire = Emoji::from_text("🔥").unwrap();
        WindowRecord {
            room: Room::default(),
            window: WindowSize::from_ms(10).unwrap().window_of(10 * nth),
            emitted_at,
            total: 1,
            counts: vec![compress(fire, 1, 1000)],
        }
    }

    fn trending(nth: u64) -> TrendingRecord {
        TrendingRecord {
            room: Room::default(),
            window: record(nth, None).window,
            span_ms: 100,
            top: vec![Count {
                emoji: Emoji::from_text("🔥").unwrap(),
                count: nth,
            }],
        }
    }

    /// Takes in the final of the `nth` window.
    fn push(room: &mut RoomState, place: (u32, u64), nth: u64, resets: Option<u64>) -> bool {
        let (partition, offset) = place;
        let id = ResultId { partition, offset };
        room.push_final(id, offset, record(nth, None), resets, None)
    }

    #[test]
    fn a_window_after_a_backward_reset_is_applied_although_it_begins_before_the_newest_one() {
        for resets in [Some(1), None] {
            let mut room = RoomState::default();
            assert!(push(&mut room, (0, 5), 1800, Some(0)));
            assert!(room.push_live(record(1801, Some(1))));
            assert!(room.push_trending(trending(1800)));

            assert!(push(&mut room, (0, 6), 9, resets));
            assert!(room.live().is_none(), "it was open before the reset");
            assert!(room.push_live(record(10, Some(2))));
            assert_eq!(room.live().unwrap().window, record(10, None).window);
            assert!(room.push_trending(trending(9)));
            assert!(!push(&mut room, (0, 6), 9, resets), "a double is dropped");
            assert_eq!(room.totals().total(), 2, "totals count both");
        }
    }

    #[test]
    fn of_two_partitions_the_later_reset_number_wins_and_then_the_later_window() {
        let mut room = RoomState::default();
        assert!(push(&mut room, (0, 5), 1800, Some(0)));
        // The topic has more partitions by now.
        assert!(push(&mut room, (3, 0), 9, Some(1)));
        assert!(
            !push(&mut room, (0, 6), 1801, Some(0)),
            "an old final that was read late"
        );
        assert!(push(&mut room, (3, 1), 10, Some(1)));
        assert_eq!(room.newest().unwrap().window, record(10, None).window);
        assert_eq!(room.totals().total(), 3);
    }
}
