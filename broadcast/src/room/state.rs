//! The state of a room at a publisher or relay: a ring of final results, the newest live tally of each open window,
//! totals, and the trending list.
//!
//! This module does no IO. Results are applied as values, and [`crate::room::cursor`] selects the messages of each
//! subscriber.
//!
//! Invariants:
//! - The ring contains final results of one partition, in the order of their offsets, each once.
//! - Every final result after [`RoomState::evicted_through`], up to the newest one, is in the ring.
//! - All live tallies are of windows of one size, which begin where the newest final result ends, or later. So windows
//!   that were open when a dataflow was restarted with another size are never shown beside the new ones.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use emostream_model::{
    Count, Frame, RelayFinal, ResultId, ResultOrder, Room, TrendingRecord, Window, WindowRecord,
    top,
};

use crate::frame::encoded::EncodedFrame;
use crate::room::totals::RoomTotals;

/// Maximum number of final results in a ring. It bounds the memory of the ring if windows are very short.
const RING_FINALS: usize = 4096;

/// Maximum number of open windows with a live tally. More windows are open only while a dataflow catches up. Then only
/// the live tallies of the newest windows are kept.
const OPEN_WINDOWS: usize = 4;

/// A final result in the ring.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Final {
    pub(crate) id: ResultId,
    pub(crate) window: Window,
    /// Time at which the final result was written to the log, Unix milliseconds.
    pub(crate) written_ms: u64,
    pub(crate) frame: EncodedFrame,
}

/// The newest tally of an open window.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) window: Window,
    /// Time at which the dataflow emitted the tally, Unix milliseconds.
    emitted_at: u64,
    /// Version, which increases with each live tally of the room.
    pub(crate) version: u64,
    pub(crate) frame: EncodedFrame,
}

/// The newest trending list, which is empty if nothing is trending any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Trending {
    /// Version, which increases with each trending list of the room.
    pub(crate) version: u64,
    /// The position of the last window of the span.
    pub(super) order: ResultOrder,
    /// Length of the span, milliseconds.
    pub(super) span_ms: u64,
    /// Whether the list is empty.
    pub(super) ended: bool,
    pub(crate) frame: EncodedFrame,
}

/// The state of one room.
#[derive(Debug, Default)]
pub(crate) struct RoomState {
    pub(super) finals: VecDeque<Arc<Final>>,
    /// Final results up to this id are not in the ring: they were evicted, or were never read.
    pub(super) evicted_through: Option<ResultId>,
    pub(super) evictions: u64,
    pub(super) live: BTreeMap<u64, Arc<Live>>,
    live_version: u64,
    pub(super) totals: RoomTotals,
    /// Number of backward resets before the newest final result.
    pub(super) resets: u64,
    /// The newest trending list. An empty list is kept, too: a subscriber that resumes may still show an older list,
    /// and must receive the empty list.
    pub(super) trending: Option<Arc<Trending>>,
}

impl RoomState {
    /// Returns a room without final results. `totals` are its totals before its first final result.
    pub(crate) fn new(totals: RoomTotals) -> Self {
        Self {
            resets: totals.as_of().map_or(0, |as_of| as_of.resets),
            totals,
            ..Self::default()
        }
    }

    /// Applies a final result. Returns `false` if it was applied before. `unread` is the last offset of its partition
    /// before the final results that this node has read.
    pub(crate) fn push_final(&mut self, closed: RelayFinal, unread: Option<u64>) -> bool {
        if self.knows(closed.id, closed.order()) {
            return false;
        }
        let RelayFinal { id, resets, .. } = closed;
        if self.partition().is_some_and(|mine| mine != id.partition) {
            self.reset_for_partition();
        }
        let partition = id.partition;
        self.raise_evicted_through(unread.map(|offset| ResultId { partition, offset }));
        self.totals.add(&closed);
        let kept = Final {
            id,
            window: closed.record.window,
            written_ms: closed.written_ms,
            frame: EncodedFrame::new(&final_frame(closed, &self.totals.counts())),
        };
        self.push_kept(resets, Arc::new(kept));
        true
    }

    /// Applies the removal of the final results before the position `before`: the totals become 0, and an older
    /// trending list becomes empty. Returns `false` if nothing changes, or if a final result at this position or a
    /// later one was applied. Such a final result may be read before the removal, since the removal is in another
    /// topic.
    pub(crate) fn remove(&mut self, room: &Room, before: ResultOrder) -> bool {
        if self.totals.as_of().is_some_and(|as_of| as_of >= before) {
            return false;
        }
        let had_totals = self.totals.total() > 0;
        self.totals = RoomTotals::removed(before);
        had_totals | self.end_trending(room, before)
    }

    /// Replaces the totals with those as of a later final result. Returns `false` if the room's totals are as of the
    /// same final result or a later one.
    pub(crate) fn adopt_totals(&mut self, totals: RoomTotals) -> bool {
        let is_later = totals.as_of() > self.totals.as_of();
        if is_later {
            let as_of = totals.as_of();
            self.raise_resets(as_of.map_or(0, |as_of| as_of.resets));
            self.totals = totals;
        }
        is_later
    }

    /// Appends a final result to the ring. Drops the live tallies of windows that the final result closes, and those
    /// from before a backward reset.
    pub(super) fn push_kept(&mut self, resets: u64, kept: Arc<Final>) {
        self.raise_resets(resets);
        self.live = self.live.split_off(&kept.window.end);
        self.finals.push_back(kept);
        while self.finals.len() > RING_FINALS {
            self.drop_oldest();
        }
    }

    fn raise_resets(&mut self, resets: u64) {
        if resets > self.resets {
            self.resets = resets;
            self.live.clear();
        }
    }

    /// Returns whether a final result was applied before. Final results of one partition are compared by their offsets.
    /// If partitions are added to the topic, a room can move to another partition. Its windows are still closed in
    /// order, so final results of two partitions are compared by their windows.
    fn knows(&self, id: ResultId, order: ResultOrder) -> bool {
        if self.partition() == Some(id.partition) {
            let kept = self.newest().map(|newest| newest.id.offset);
            let seen = kept.max(self.evicted_through.map(|id| id.offset));
            return seen.is_some_and(|seen| id.offset <= seen);
        }
        self.order().is_some_and(|newest| order <= newest)
    }

    /// Returns the number of backward resets before the newest final result.
    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    /// Returns the position of the newest final result in the ring.
    fn order(&self) -> Option<ResultOrder> {
        let newest = self.newest()?;
        Some(ResultOrder::new(self.resets, newest.window))
    }

    /// Returns whether a final result is from another log than the final results that were applied. In another log the
    /// same offsets have other records. So the final result is from another log if it was not applied although the
    /// newest final result has the same offset or a higher one.
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
                let is_evicted = evicted.is_some_and(|last| id.offset <= last.offset);
                // After a backward reset, a later window can have a lower offset than an earlier one. So windows are
                // compared only if there was no reset.
                !is_evicted || self.resets == 0 && window.start > newest.window.start
            }
        }
    }

    /// Empties the ring before final results of another partition are added, since offsets of two partitions cannot be
    /// compared.
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

    /// Applies a live tally. Returns `false` if its window, or a part of it, is closed, or if a newer tally was
    /// applied.
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

    /// Applies a trending record. Returns `false` if it is not newer than the room's list.
    pub(crate) fn push_trending(&mut self, record: TrendingRecord) -> bool {
        // The second value is ignored: a record contains only the top emojis, so the sum of the others is not known.
        let (top, _) = top(&record.top, |count| count.count);
        let ended = top.is_empty();
        let span_ms = record.span_ms;
        let frame = EncodedFrame::new(&Frame::Trending {
            room: record.room,
            span_ms,
            top,
        });
        self.show_trending(Trending {
            version: 0,
            order: ResultOrder::new(self.resets, record.window),
            span_ms,
            ended,
            frame,
        })
    }

    /// Applies a trending list, and assigns the next version to it. Returns `false` if the room's list is newer or
    /// equal.
    pub(super) fn show_trending(&mut self, trending: Trending) -> bool {
        let known = self.trending.as_ref();
        if known.is_some_and(|known| {
            trending.order < known.order
                || trending.order == known.order && known.frame == trending.frame
        }) {
            return false;
        }
        self.trending = Some(Arc::new(Trending {
            version: self.trending_version() + 1,
            ..trending
        }));
        true
    }

    /// Replaces the trending list with an empty one. Returns `false` if there is no list, or if the list is from a
    /// window at the position `before` or a later one.
    fn end_trending(&mut self, room: &Room, before: ResultOrder) -> bool {
        let Some(known) = self.trending().filter(|known| known.order < before) else {
            return false;
        };
        let span_ms = known.span_ms;
        let frame = EncodedFrame::new(&Frame::Trending {
            room: room.clone(),
            span_ms,
            top: Vec::new(),
        });
        self.show_trending(Trending {
            version: 0,
            order: before.just_before(),
            span_ms,
            ended: true,
            frame,
        })
    }

    /// Drops final results written before `before_ms`, and live tallies of windows that began before it.
    pub(crate) fn expire(&mut self, before_ms: u64) {
        while self
            .finals
            .front()
            .is_some_and(|oldest| oldest.written_ms < before_ms)
        {
            self.drop_oldest();
        }
        if self.finals.is_empty() {
            // The room may never get another final result, so the memory of the ring is released.
            self.finals = VecDeque::new();
        }
        self.live = self.live.split_off(&before_ms);
    }

    /// Drops live tallies of windows that ended before `overdue_ms`.
    pub(crate) fn end_live(&mut self, overdue_ms: u64) {
        self.live.retain(|_, live| live.window.end >= overdue_ms);
    }

    /// Notes that final results of `partition` up to `offset` were deleted before they were read. Returns `false` if
    /// the final results of this room are in another partition.
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

    /// Returns the id up to which final results are not in the ring: they were evicted, or were never read.
    pub(crate) fn evicted_through(&self) -> Option<ResultId> {
        self.evicted_through
    }

    /// Returns a number that increases whenever final results are evicted from the ring, or were deleted before they
    /// were read.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Returns the partition of the room's final results, or `None` if the room has had no final result.
    pub(crate) fn partition(&self) -> Option<u32> {
        self.newest_id().map(|id| id.partition)
    }

    /// Returns the id of the newest final result. If the ring is empty, this is the last final result that was evicted.
    pub(crate) fn newest_id(&self) -> Option<ResultId> {
        let newest = self.newest().map(|newest| newest.id);
        newest.or(self.evicted_through)
    }

    /// Returns the newest final result in the ring.
    pub(crate) fn newest(&self) -> Option<&Arc<Final>> {
        self.finals.back()
    }

    /// Returns the final results in the ring, oldest first.
    pub(crate) fn finals(&self) -> impl Iterator<Item = &Arc<Final>> {
        self.finals.iter()
    }

    /// Returns the oldest final result in the ring after `offset`, or the oldest of all if there is no offset.
    pub(crate) fn final_after(&self, offset: Option<u64>) -> Option<&Arc<Final>> {
        let first = offset.map_or(0, |offset| {
            self.finals.partition_point(|kept| kept.id.offset <= offset)
        });
        self.finals.get(first)
    }

    /// Returns the live tally with the lowest version after `version`.
    pub(crate) fn live_after(&self, version: u64) -> Option<&Arc<Live>> {
        let newer = self.live.values().filter(|live| live.version > version);
        newer.min_by_key(|live| live.version)
    }

    /// Returns the live tally of the newest open window.
    pub(crate) fn live(&self) -> Option<&Arc<Live>> {
        self.live.values().next_back()
    }

    /// Returns the trending list; `None` if it is empty.
    pub(crate) fn trending(&self) -> Option<&Arc<Trending>> {
        self.trending.as_ref().filter(|trending| !trending.ended)
    }

    /// Returns the trending list, which may be empty, if it has changed since `version`.
    pub(crate) fn trending_after(&self, version: u64) -> Option<&Arc<Trending>> {
        let known = self.trending.as_ref();
        known.filter(|known| known.version > version)
    }

    /// Returns the version of the newest trending list, or 0 if there was none.
    pub(crate) fn trending_version(&self) -> u64 {
        self.trending.as_ref().map_or(0, |known| known.version)
    }

    /// Returns the totals of the room as of its newest final result, even if that final result is not in the ring any
    /// more.
    pub(crate) fn totals(&self) -> &RoomTotals {
        &self.totals
    }

    /// Returns whether the room has a final result in the ring or a live tally.
    pub(crate) fn is_active(&self) -> bool {
        !self.finals.is_empty() || !self.live.is_empty()
    }

    /// Returns whether the room has no final result in the ring, no live tally, no totals and no trending list.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_active() && self.totals.total() == 0 && self.trending().is_none()
    }
}

fn final_frame(closed: RelayFinal, totals: &[Count]) -> Frame {
    let RelayFinal {
        id,
        written_ms,
        record,
        ..
    } = closed;
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
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::testing::{closed, record, record_of};
    use emostream_model::Emoji;

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

    /// Applies the final result of the `nth` window.
    fn push(room: &mut RoomState, place: (u32, u64), nth: u64, resets: u64) -> bool {
        let (partition, offset) = place;
        let id = ResultId { partition, offset };
        let closed = RelayFinal {
            resets,
            ..closed(id, offset, record(nth, None))
        };
        room.push_final(closed, None)
    }

    fn order(nth: u64) -> ResultOrder {
        ResultOrder::new(0, record(nth, None).window)
    }

    #[test]
    fn a_window_after_a_backward_reset_is_applied_although_it_begins_before_the_newest_one() {
        let mut room = RoomState::default();
        assert!(push(&mut room, (0, 5), 1800, 0));
        assert!(room.push_live(record(1801, Some(1))));
        assert!(room.push_trending(trending(1800)));

        assert!(push(&mut room, (0, 6), 9, 1));
        assert!(room.live().is_none(), "it was open before the reset");
        assert!(room.push_live(record(10, Some(2))));
        assert_eq!(room.live().unwrap().window, record(10, None).window);
        assert!(room.push_trending(trending(9)));
        assert!(!push(&mut room, (0, 6), 9, 1), "a double is dropped");
        assert_eq!(room.totals().total(), 2, "totals count both");
    }

    #[test]
    fn a_final_that_begins_the_totals_drops_those_before() {
        let mut room = RoomState::default();
        for (nth, begins, total) in [
            (1, true, 7),
            (2, false, 14),
            (900, true, 7),
            (901, false, 14),
        ] {
            let id = ResultId {
                partition: 0,
                offset: nth,
            };
            let closed = RelayFinal {
                begins,
                ..closed(id, nth, record_of(nth, 7, None))
            };
            assert!(room.push_final(closed, None));
            assert_eq!(room.totals().total(), total);
            let text = room.newest().unwrap().frame.json().to_string();
            let totals = format!(r#""totals":[{{"emoji":"🔥","count":{total}}}]"#);
            assert!(text.contains(&totals), "{text}");
            assert_eq!(room.totals().as_of(), Some(order(nth)));
        }
    }

    #[test]
    fn a_removed_room_is_idle_and_its_next_final_counts_from_0() {
        let name = Room::default();
        let mut room = RoomState::default();
        assert!(push(&mut room, (0, 5), 7, 0));
        assert!(room.push_trending(trending(7)));
        assert!(!room.remove(&name, order(7)), "its final is not earlier");
        room.expire(u64::MAX);
        // The ring is empty, but the totals still have the position of their final result.
        assert!(!room.remove(&name, order(7)));
        assert_eq!((room.totals().total(), room.is_idle()), (1, false));

        assert!(room.remove(&name, order(100)));
        assert_eq!((room.totals().total(), room.is_idle()), (0, true));
        let ended = room.trending_after(1).unwrap();
        assert!(ended.frame.json().contains(r#""top":[]"#));
        assert!(!room.remove(&name, order(100)), "it is known already");
        assert!(
            !room.push_trending(trending(7)),
            "it is from before the removal"
        );

        assert!(room.push_trending(trending(120)));
        assert!(push(&mut room, (0, 6), 120, 0));
        assert!(
            !room.remove(&name, order(110)),
            "it is read late, since it is in another topic"
        );
        assert_eq!(room.totals().total(), 1);
        assert!(room.trending().is_some());
    }

    #[test]
    fn a_removal_does_not_end_a_trending_list_of_a_later_window() {
        let mut room = RoomState::default();
        assert!(push(&mut room, (0, 5), 7, 0));
        // The list is of window 120. The final result of that window is in another topic, and is not visible yet.
        assert!(room.push_trending(trending(120)));
        assert!(room.remove(&Room::default(), order(110)));
        assert!(room.trending().is_some());
    }

    #[test]
    fn of_two_partitions_the_later_reset_number_wins_and_then_the_later_window() {
        let mut room = RoomState::default();
        assert!(push(&mut room, (0, 5), 1800, 0));
        // Partitions were added to the topic, so the room moves to partition 3.
        assert!(push(&mut room, (3, 0), 9, 1));
        assert!(
            !push(&mut room, (0, 6), 1801, 0),
            "an old final that was read late"
        );
        assert!(push(&mut room, (3, 1), 10, 1));
        assert_eq!(room.newest().unwrap().window, record(10, None).window);
        assert_eq!(room.totals().total(), 3);
    }
}
