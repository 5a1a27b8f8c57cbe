//! Cursors: the next message of a subscriber is a pure function of its cursor and the room.
//!
//! For any interleaving of results, reads and expiry, these invariants hold:
//! - final results are sent in the order of their ids, each at most once;
//! - a final result that the subscriber misses is announced by a gap before anything newer;
//! - of the live tallies of an open window only the newest is sent;
//! - trending lists may be skipped, but the newest one is always sent.

use std::{ops::Range, sync::Arc};

use emostream_model::{Frame, GapReason, ResultId};

use crate::frame::encoded::EncodedFrame;
use crate::room::state::{Final, Live, RoomState, Trending};

/// The position of a subscriber in its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The last final result that the subscriber has, if any.
    after: Option<ResultId>,
    /// Number of evictions of the room when `after` was set. If `after` is `None`, only this number shows that final
    /// results were evicted.
    evictions: u64,
    /// The reason that the next gap reports, if there is a gap.
    reason: GapReason,
    /// Whether final results were missing when the subscriber resumed, and the gap was not sent yet.
    expired: bool,
    live_version: u64,
    trending_version: u64,
}

/// The next message of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// A final result.
    Final(Arc<Final>),
    /// The newest tally of an open window, and the number of older tallies that were not sent to the subscriber.
    Live(Arc<Live>, u64),
    /// The newest trending list.
    Trending(Arc<Trending>),
    /// The subscriber misses final results that follow the one with this id.
    Gap(ResultId, GapReason),
}

impl Next {
    /// Calls `read` with the frame of the message.
    pub(crate) fn frame<T>(&self, read: impl FnOnce(&EncodedFrame) -> T) -> T {
        match self {
            Self::Final(kept) => read(&kept.frame),
            Self::Live(live, _) => read(&live.frame),
            Self::Trending(trending) => read(&trending.frame),
            Self::Gap(after, reason) => read(&EncodedFrame::new(&Frame::Gap {
                after: *after,
                reason: *reason,
            })),
        }
    }
}

impl Cursor {
    /// Returns the cursor of a new subscriber. The subscriber is sent the newest final result, which contains the
    /// totals, and then all later messages.
    pub(crate) fn join(room: &RoomState) -> Self {
        let evicted = room.evicted_through();
        let lost = |id: ResultId| evicted.is_some_and(|last| id.offset <= last.offset);
        let newest = room.newest().map(|newest| newest.id);
        let newest = newest.filter(|id| !lost(*id));
        Self {
            after: match newest {
                None => evicted,
                Some(id) => id
                    .offset
                    .checked_sub(1)
                    .map(|offset| ResultId { offset, ..id }),
            },
            evictions: room.evictions(),
            reason: GapReason::Slow,
            expired: false,
            live_version: 0,
            // A new subscriber does not show a trending list yet, so it does not need an empty list.
            trending_version: match room.trending() {
                Some(_) => 0,
                None => room.trending_version(),
            },
        }
    }

    /// Returns the cursor of a subscriber that has every final result up to `id`, and whether all later final results
    /// can be sent. `read` is the range of offsets that were read from the partition. Final results before the range
    /// are not known any more, and an id after the range is from another log.
    pub(crate) fn resume(room: &RoomState, id: ResultId, read: &Range<u64>) -> (Self, bool) {
        let mut cursor = Self {
            after: Some(id),
            evictions: room.evictions(),
            reason: GapReason::Expired,
            expired: id.offset.saturating_add(1) < read.start || id.offset >= read.end,
            live_version: 0,
            trending_version: 0,
        };
        cursor.expired = cursor.has_gap(room);
        (cursor, !cursor.expired)
    }

    /// Returns the next message, if there is one, and moves the cursor after it.
    pub(crate) fn next(&mut self, room: &RoomState) -> Option<Next> {
        if self.has_gap(room) {
            let reason = self.reason;
            let none_yet = ResultId {
                partition: room.partition().unwrap_or_default(),
                offset: 0,
            };
            let after = self.after.unwrap_or(none_yet);
            // The oldest final result in the ring follows the gap. If the subscriber misses another final result later,
            // the reason is that the subscriber is slow.
            *self = Self {
                after: room.evicted_through(),
                evictions: room.evictions(),
                reason: GapReason::Slow,
                expired: false,
                ..*self
            };
            return Some(Next::Gap(after, reason));
        }
        if let Some(next) = room.final_after(self.after.map(|after| after.offset)) {
            self.after = Some(next.id);
            self.reason = GapReason::Slow;
            return Some(Next::Final(next.clone()));
        }
        // The trending list is sent before live tallies. The list changes at most once in a window, while there may
        // always be a pending live tally, so in the other order the list might never be sent.
        if let Some(trending) = room.trending_after(self.trending_version) {
            self.trending_version = trending.version;
            return Some(Next::Trending(trending.clone()));
        }
        let live = room.live_after(self.live_version)?;
        let skipped = match self.live_version {
            // Tallies that are older than the subscription do not count as skipped.
            0 => 0,
            seen => live.version - seen - 1,
        };
        self.live_version = live.version;
        Some(Next::Live(live.clone(), skipped))
    }

    fn has_gap(&self, room: &RoomState) -> bool {
        let Some(after) = self.after else {
            return room.evictions() > self.evictions;
        };
        let elsewhere = room.partition().is_some_and(|p| p != after.partition);
        let below = room
            .evicted_through()
            .is_some_and(|last| after.offset < last.offset);
        self.expired || elsewhere || below
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::{
        testing::{closed, record},
        totals::RoomTotals,
    };
    use emostream_model::{Count, Emoji, Room, TrendingRecord, WindowRecord, WindowSize};
    use proptest::prelude::*;

    fn id(offset: u64) -> ResultId {
        ResultId {
            partition: 2,
            offset,
        }
    }

    fn room(unread: Option<u64>, offsets: impl IntoIterator<Item = u64>) -> RoomState {
        let mut room = RoomState::new(RoomTotals::default());
        for offset in offsets {
            assert!(room.push_final(closed(id(offset), offset, record(offset, None)), unread));
        }
        room
    }

    fn drain(cursor: &mut Cursor, room: &RoomState) -> Vec<String> {
        std::iter::from_fn(|| cursor.next(room))
            .map(|next| match next {
                Next::Final(f) => f.id.to_string(),
                Next::Live(l, _) => format!("live {}", l.version),
                Next::Trending(t) => format!("trending {}", t.version),
                Next::Gap(id, reason) => format!("gap {id} {reason:?}"),
            })
            .collect()
    }

    #[test]
    fn a_new_subscriber_is_sent_the_newest_final_and_the_live_tally() {
        let mut room = room(None, [3, 5, 9]);
        room.push_live(record(10, Some(1)));
        room.push_live(record(10, Some(2)));
        let mut cursor = Cursor::join(&room);
        assert_eq!(drain(&mut cursor, &room), ["2-9", "live 2"]);
        assert!(
            drain(
                &mut Cursor::join(&RoomState::default()),
                &RoomState::default()
            )
            .is_empty()
        );
    }

    #[test]
    fn the_first_final_of_a_room_is_sent_to_a_subscriber() {
        let room = room(None, [0]);
        assert_eq!(drain(&mut Cursor::join(&room), &room), ["2-0"]);
    }

    #[test]
    fn a_subscriber_that_resumes_is_sent_every_later_final() {
        let room = room(Some(2), [3, 5, 9]);
        for (since, expected) in [
            (2, vec!["2-3", "2-5", "2-9"]),
            (4, vec!["2-5", "2-9"]),
            (9, vec![]),
            (12, vec![]),
        ] {
            let (mut cursor, resumed) = Cursor::resume(&room, id(since), &(3..13));
            assert!(resumed);
            assert_eq!(drain(&mut cursor, &room), expected);
        }
    }

    #[test]
    fn an_id_that_has_left_the_ring_is_answered_by_a_gap() {
        let room = room(Some(2), [3, 5]);
        let (mut cursor, resumed) = Cursor::resume(&room, id(1), &(3..6));
        assert!(!resumed);
        assert_eq!(drain(&mut cursor, &room), ["gap 2-1 Expired", "2-3", "2-5"]);
        let (mut cursor, resumed) = Cursor::resume(
            &room,
            ResultId {
                partition: 0,
                offset: 4,
            },
            &(0..9),
        );
        assert!(!resumed);
        assert_eq!(drain(&mut cursor, &room), ["gap 0-4 Expired", "2-3", "2-5"]);
    }

    #[test]
    fn a_final_supersedes_the_live_tallies_of_its_window() {
        let mut room = room(None, [3]);
        room.push_live(record(4, Some(1)));
        room.push_live(record(5, Some(1)));
        room.push_final(closed(id(8), 8, record(4, None)), None);
        assert!(!room.push_live(record(4, Some(2))));
        assert_eq!(drain(&mut Cursor::join(&room), &room), ["2-8", "live 2"]);
    }

    #[test]
    fn live_tallies_of_old_windows_are_dropped_when_the_window_size_changes() {
        let sized = |start: u64, ms: u64| WindowRecord {
            emitted_at: Some(1),
            ..WindowRecord {
                window: WindowSize::from_ms(ms).unwrap().window_of(start),
                ..record(0, None)
            }
        };
        let mut room = room(None, [3]);
        // The windows [40, 50) and [50, 60) are never closed, since the dataflow is restarted with windows of 15 ms.
        assert!(room.push_live(sized(40, 10)) && room.push_live(sized(50, 10)));
        assert!(!room.push_live(sized(30, 15)), "it overlaps a final");
        assert!(room.push_live(sized(45, 15)));
        assert_eq!(drain(&mut Cursor::join(&room), &room), ["2-3", "live 3"]);
        // A final result drops the live tallies of windows that overlap its window or are before it.
        let mut late = self::room(None, [3]);
        assert!(late.push_live(sized(50, 10)));
        let of_45_to_60 = WindowRecord {
            emitted_at: None,
            ..sized(45, 15)
        };
        assert!(late.push_final(closed(id(8), 8, of_45_to_60), None));
        assert!(late.live().is_none());
    }

    #[test]
    fn a_room_with_an_empty_ring_sends_a_gap_to_a_subscriber_that_resumes_from_before_it() {
        let room = RoomState::default();
        let (mut cursor, resumed) = Cursor::resume(&room, id(3), &(8..8));
        assert!(!resumed);
        assert_eq!(drain(&mut cursor, &room), ["gap 2-3 Expired"]);
        let (mut cursor, resumed) = Cursor::resume(&room, id(7), &(8..8));
        assert!(resumed);
        assert!(drain(&mut cursor, &room).is_empty());
    }

    #[test]
    fn an_id_of_another_log_is_answered_by_a_gap() {
        let room = room(None, [3, 5]);
        let (mut cursor, resumed) = Cursor::resume(&room, id(6), &(0..6));
        assert!(!resumed);
        assert_eq!(drain(&mut cursor, &room), ["gap 2-6 Expired", "2-3", "2-5"]);
        let most = id(u64::MAX);
        assert!(!Cursor::resume(&room, most, &(0..6)).1);
    }

    #[test]
    fn a_room_that_moves_to_another_partition_continues_after_a_gap() {
        let mut room = room(None, [3, 5]);
        let mut cursor = Cursor::join(&room);
        assert_eq!(drain(&mut cursor, &room), ["2-5"]);
        let moved = |offset| ResultId {
            partition: 4,
            offset,
        };
        assert!(!room.push_final(closed(moved(0), 9, record(5, None)), None));
        assert!(room.push_final(closed(moved(1), 9, record(6, None)), None));
        assert_eq!(drain(&mut cursor, &room), ["gap 2-5 Slow", "4-1"]);
    }

    #[test]
    fn a_subscriber_of_an_empty_room_is_sent_a_gap_for_evicted_finals() {
        let mut room = RoomState::default();
        let mut cursor = Cursor::join(&room);
        for offset in [3, 5] {
            room.push_final(closed(id(offset), offset, record(offset, None)), Some(2));
        }
        room.expire(4);
        assert_eq!(drain(&mut cursor, &room), ["gap 2-0 Slow", "2-5"]);
    }

    #[test]
    fn a_new_subscriber_is_not_sent_a_gap_for_an_earlier_loss() {
        let mut room = room(None, [3, 5]);
        assert!(room.evict_through(2, 9));
        let mut cursor = Cursor::join(&room);
        assert!(drain(&mut cursor, &room).is_empty());
        room.push_final(closed(id(12), 12, record(12, None)), Some(9));
        assert_eq!(drain(&mut cursor, &room), ["2-12"]);
    }

    fn trending(at: u64, emojis: &[&str]) -> TrendingRecord {
        let count = |emoji: &&str| Count {
            emoji: Emoji::from_text(emoji).unwrap(),
            count: 1,
        };
        TrendingRecord {
            room: Room::default(),
            window: WindowSize::from_ms(10).unwrap().window_of(at * 10),
            span_ms: 60,
            top: emojis.iter().map(count).collect(),
        }
    }

    #[test]
    fn the_newest_trending_list_is_sent_before_live_tallies() {
        let mut room = room(None, [3]);
        let mut cursor = Cursor::join(&room);
        room.push_live(record(4, Some(1)));
        assert!(room.push_trending(trending(3, &["🔥"])));
        assert!(room.push_trending(trending(4, &["👏"])));
        assert!(!room.push_trending(trending(3, &["😂"])));
        assert_eq!(drain(&mut cursor, &room), ["2-3", "trending 2", "live 1"]);
        assert!(room.trending().unwrap().frame.json().contains("👏"));
    }

    #[test]
    fn the_end_of_a_trending_list_is_sent_to_subscribers_that_stayed_or_resume() {
        let mut room = room(None, [3]);
        let mut there = Cursor::join(&room);
        room.push_trending(trending(3, &["🔥"]));
        assert_eq!(drain(&mut there, &room), ["2-3", "trending 1"]);
        room.push_trending(trending(9, &[]));
        assert!(room.trending().is_none());
        assert_eq!(drain(&mut there, &room), ["trending 2"]);
        // The subscriber has the room's last final result, so no gap follows.
        room.expire(u64::MAX);
        let (mut back, resumed) = Cursor::resume(&room, id(3), &(0..4));
        assert!(resumed);
        assert_eq!(drain(&mut back, &room), ["trending 2"]);
        // A new subscriber does not show a trending list yet, so the server does not send it an empty list.
        let mut late = Cursor::join(&room);
        assert!(drain(&mut late, &room).is_empty());
        room.push_trending(trending(9, &["👏"]));
        for mut cursor in [there, late, back] {
            assert_eq!(drain(&mut cursor, &room), ["trending 3"]);
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Live,
        Trending(u64),
        Read(usize),
        Expire(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1_u64..4).prop_map(Step::Push),
            Just(Step::Live),
            (0_u64..6).prop_map(Step::Trending),
            (0_usize..4).prop_map(Step::Read),
            (0_u64..6).prop_map(Step::Expire),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn finals_are_never_lost_doubled_or_reordered_without_a_gap(steps in steps()) {
            let mut room = room(None, [0]);
            let (mut cursor, _) = Cursor::resume(&room, id(0), &(0..1));
            let (mut offset, mut pushed, mut got) = (0, Vec::new(), Vec::new());
            let (mut live_seen, mut trending_seen) = (0, 0);
            let mut read = |cursor: &mut Cursor, room: &RoomState, got: &mut Vec<Option<u64>>| match cursor.next(room) {
                Some(Next::Final(f)) => got.push(Some(f.id.offset)),
                Some(Next::Gap(..)) => got.push(None),
                Some(Next::Live(l, _)) => { assert!(l.version > live_seen); live_seen = l.version; }
                Some(Next::Trending(t)) => { assert!(t.version > trending_seen); trending_seen = t.version; }
                None => {}
            };
            for step in steps {
                match step {
                    Step::Push(gap) => {
                        offset += gap;
                        pushed.push(offset);
                        assert!(room.push_final(closed(id(offset), offset, record(offset, None)), None));
                        assert!(!room.push_final(closed(id(offset), offset, record(offset, None)), None), "a double is dropped");
                    }
                    Step::Live => { room.push_live(record(offset + 1, Some(1))); }
                    Step::Trending(at) => {
                        let top: &[&str] = if at == 0 { &[] } else { &["🔥"] };
                        room.push_trending(trending(offset + at, top));
                    }
                    Step::Read(n) => (0..n).for_each(|_| read(&mut cursor, &room, &mut got)),
                    Step::Expire(back) => room.expire((offset + 1).saturating_sub(back)),
                }
            }
            for _ in 0..pushed.len() + 10 {
                read(&mut cursor, &room, &mut got);
            }
            let finals: Vec<u64> = got.iter().flatten().copied().collect();
            prop_assert!(finals.is_sorted_by(|a, b| a < b));
            // Final results that were received one after another, without a gap, were pushed one after another.
            let place = |offset: u64| pushed.iter().position(|p| *p == offset).unwrap();
            for pair in got.windows(2) {
                if let [Some(a), Some(b)] = pair {
                    prop_assert_eq!(place(*a) + 1, place(*b));
                }
            }
            if got.first().is_some_and(Option::is_some) {
                prop_assert_eq!(got[0], pushed.first().copied());
            }
            if let Some(newest) = room.newest().filter(|newest| newest.id.offset > 0) {
                prop_assert_eq!(finals.last(), Some(&newest.id.offset));
            }
            prop_assert_eq!(trending_seen, room.trending_version());
        }
    }
}
