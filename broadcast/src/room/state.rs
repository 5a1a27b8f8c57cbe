//! A room as its publisher or relay knows it: a ring of finals, the open windows' newest live tallies, totals,
//! what is trending.
//!
//! Pure: results are applied as values; what each subscriber is sent, [`crate::room::cursor`] decides.
//!
//! Invariants: the ring contains finals in the order of their offsets, each once, all of one partition;
//! every final above [`RoomState::evicted_through`] and up to the newest one is in the ring; live
//! tallies are of windows of one size that begin where the newest final ends, or later: windows that were open when a
//! dataflow started again with another size are never shown beside those.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use emostream_model::{
    Count, Frame, ResultId, ResultOrder, TrendingRecord, Window, WindowRecord, top,
};

use crate::frame::encoded::EncodedFrame;
use crate::room::totals::RoomTotals;

/// Maximum number of finals in a ring: ten minutes of windows as short as 150 ms.
const RING_FINALS: usize = 4096;

/// Maximum number of open windows whose live tally is kept: more are open only while a dataflow catches up, and
/// then the newest are of interest.
const OPEN_WINDOWS: usize = 4;

/// A final in the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Final {
    pub(crate) id: ResultId,
    pub(crate) window: Window,
    /// When it was written to the log, Unix milliseconds.
    pub(crate) written_ms: u64,
    pub(crate) frame: EncodedFrame,
}

/// The newest tally of an open window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) window: Window,
    /// When the dataflow emitted it, Unix milliseconds.
    emitted_at: u64,
    /// Increases with each live tally of the room.
    pub(crate) version: u64,
    pub(crate) frame: EncodedFrame,
}

/// What is trending, or that nothing is any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trending {
    /// Increases with each record of the room.
    pub(crate) version: u64,
    /// The last window of its span.
    pub(super) order: ResultOrder,
    /// Its top is empty.
    ended: bool,
    pub(crate) frame: EncodedFrame,
}

/// The state of one room.
#[derive(Debug, Default)]
pub(crate) struct RoomState {
    pub(super) finals: VecDeque<Arc<Final>>,
    /// Finals up to this one are not in the ring any more.
    pub(super) evicted_through: Option<ResultId>,
    pub(super) evictions: u64,
    pub(super) live: BTreeMap<u64, Arc<Live>>,
    live_version: u64,
    pub(super) totals: RoomTotals,
    /// The number of backward resets before the newest final.
    pub(super) resets: u64,
    /// Kept when it has ended, for subscribers that resume and still show the list before.
    pub(super) trending: Option<Arc<Trending>>,
}

impl RoomState {
    /// A room with its totals before its first final.
    pub(crate) fn new(totals: RoomTotals) -> Self {
        Self {
            totals,
            ..Self::default()
        }
    }

    /// Applies a final; `false` if it is known already. `resets` is the number of backward resets before it:
    /// `None` from an upstream, which sends finals in the order in which it applied them. `unread` is the last
    /// offset of its partition before those that were read.
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
            self.reset_for_partition();
        }
        let partition = id.partition;
        self.raise_evicted_through(unread.map(|offset| ResultId { partition, offset }));
        self.totals.add(&record);
        let window = record.window;
        let frame = EncodedFrame::new(&final_frame(id, written_ms, record, &self.totals.counts()));
        let kept = Final {
            id,
            window,
            written_ms,
            frame,
        };
        self.push_kept(resets, Arc::new(kept));
        true
    }

    /// The number of backward resets before a final that follows the newest one: in a partition, windows begin
    /// earlier again only after a reset.
    pub(super) fn resets_of(&self, id: ResultId, window: Window) -> u64 {
        let back = |newest: &Arc<Final>| {
            newest.id.partition == id.partition && window.start <= newest.window.start
        };
        self.resets + u64::from(self.newest().is_some_and(back))
    }

    /// Appends a final to the ring, and drops the live tallies of windows that it closes, and of all windows that
    /// were open before a backward reset.
    pub(super) fn push_kept(&mut self, resets: u64, kept: Arc<Final>) {
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

    /// Whether a final was applied before. Within a partition offsets show it. A room moves to another partition
    /// when the topic gets more of them, and still closes its windows in order.
    fn knows(&self, id: ResultId, order: ResultOrder) -> bool {
        if self.partition() == Some(id.partition) {
            let kept = self.newest().map(|newest| newest.id.offset);
            let seen = kept.max(self.evicted_through.map(|id| id.offset));
            return seen.is_some_and(|seen| id.offset <= seen);
        }
        self.order().is_some_and(|newest| order <= newest)
    }

    /// The number of backward resets before the newest final.
    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    /// The order of the newest final in the ring.
    fn order(&self) -> Option<ResultOrder> {
        let newest = self.newest()?;
        Some(ResultOrder::new(self.resets, newest.window))
    }

    /// Whether a final shows that it is from another log than the finals before it, in which the same offsets hold
    /// other records: it was not applied, but its offset is among those that were.
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
                let evicted = self.evicted_through;
                let gone = evicted.is_some_and(|last| id.offset <= last.offset);
                // After a backward reset, later windows have lower offsets than earlier ones.
                !gone || self.resets == 0 && window.start > newest.window.start
            }
        }
    }

    /// Empties the ring: finals of another partition follow, whose offsets cannot be compared with these.
    pub(super) fn reset_for_partition(&mut self) {
        self.finals.clear();
        self.evicted_through = None;
        self.evictions += 1;
    }

    fn raise_evicted_through(&mut self, to: Option<ResultId>) {
        let offset = |id: Option<ResultId>| id.map(|id| id.offset);
        if offset(to) > offset(self.evicted_through) {
            self.evicted_through = to;
        }
    }

    /// Applies a live tally; `false` if a part of its window is final, or a newer tally is known.
    pub(crate) fn push_live(&mut self, record: WindowRecord) -> bool {
        let window = record.window;
        let Some(emitted_at) = record.emitted_at.filter(|_| !self.is_closed(window)) else {
            return false;
        };
        let unnamed = record.unnamed();
        let (counts, others) = top(&record.counts, |tally| tally.count);
        let frame = EncodedFrame::new(&Frame::Live {
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

    pub(super) fn show_live(
        &mut self,
        window: Window,
        emitted_at: u64,
        frame: EncodedFrame,
    ) -> bool {
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

    /// Applies what is trending; `false` if it is not newer than what is known.
    pub(crate) fn push_trending(&mut self, record: TrendingRecord) -> bool {
        // No `others`: a record contains the top only.
        let (top, _) = top(&record.top, |count| count.count);
        let ended = top.is_empty();
        let frame = EncodedFrame::new(&Frame::Trending {
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
        frame: EncodedFrame,
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

    /// Drops finals written before `before_ms`, and live tallies of windows that began before it.
    pub(crate) fn expire(&mut self, before_ms: u64) {
        while self
            .finals
            .front()
            .is_some_and(|oldest| oldest.written_ms < before_ms)
        {
            self.drop_oldest();
        }
        if self.finals.is_empty() {
            // Releases the ring's memory: the room may never get another final.
            self.finals = VecDeque::new();
        }
        self.live = self.live.split_off(&before_ms);
    }

    /// Drops live tallies of windows that ended before `overdue_ms`.
    pub(crate) fn end_live(&mut self, overdue_ms: u64) {
        self.live.retain(|_, live| live.window.end >= overdue_ms);
    }

    /// Finals of `partition` up to `offset` were deleted before they were read.
    pub(crate) fn evict_through(&mut self, partition: u32, offset: u64) -> bool {
        let mine = self.partition() == Some(partition);
        if mine {
            self.raise_evicted_through(Some(ResultId { partition, offset }));
            self.evictions += 1;
        }
        mine
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.finals.pop_front() {
            self.raise_evicted_through(Some(oldest.id));
            self.evictions += 1;
        }
    }

    /// Finals up to this one are not in the ring any more.
    pub(crate) fn evicted_through(&self) -> Option<ResultId> {
        self.evicted_through
    }

    /// Increases whenever finals are evicted from the ring, or were deleted before they were read.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// The partition of its finals, once it has one.
    pub(crate) fn partition(&self) -> Option<u32> {
        let newest = self.newest().map(|newest| newest.id);
        newest.or(self.evicted_through).map(|id| id.partition)
    }

    /// The newest final in the ring.
    pub(crate) fn newest(&self) -> Option<&Arc<Final>> {
        self.finals.back()
    }

    /// The finals in the ring, oldest first.
    pub(crate) fn finals(&self) -> impl Iterator<Item = &Arc<Final>> {
        self.finals.iter()
    }

    /// The oldest final in the ring after `offset`.
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

    /// What is trending, or that nothing is any more, if that changed after `version`.
    pub(crate) fn trending_after(&self, version: u64) -> Option<&Arc<Trending>> {
        let known = self.trending.as_ref();
        known.filter(|known| known.version > version)
    }

    /// The version of the last record of what is trending; 0 if there was none.
    pub(crate) fn trending_version(&self) -> u64 {
        self.trending.as_ref().map_or(0, |known| known.version)
    }

    /// The totals of the room as of its newest final.
    pub(crate) fn totals(&self) -> &RoomTotals {
        &self.totals
    }

    /// Whether it has results to show now.
    pub(crate) fn is_active(&self) -> bool {
        !self.finals.is_empty() || !self.live.is_empty()
    }

    /// Whether it has no results, as far as is known.
    pub(crate) fn is_idle(&self) -> bool {
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
    use crate::room::testing::record;
    use emostream_model::{Emoji, Room};

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
