//! The snapshot of a room, which an upstream sends to a relay.
//!
//! ```text
//!  upstream's room ─ snapshot ─▶ RoomSnapshot ─ parse ─▶ ParsedSnapshot ─ merge ─▶ relay's room
//! ```
//!
//! Invariant: after a merge the relay's room has the final results and totals of the node that has applied more final
//! results, the relay or the upstream. If final results are missing between two others, a gap announces them. The
//! position up to which the totals count (`ResultOrder`) shows which node has applied more final results. The sum of
//! the totals does not show it, since totals can begin at 0 again. If the positions are equal, the relay keeps its own
//! totals.

use std::sync::Arc;

use emostream_model::{Frame, ResultId, ResultOrder, Room, RoomSnapshot, TrendingNow, Window};

use crate::frame::encoded::EncodedFrame;
use crate::room::state::{Final, RoomState, Trending};
use crate::room::totals::RoomTotals;

/// A snapshot whose frames were parsed and are valid.
#[derive(Debug)]
pub(crate) struct ParsedSnapshot {
    evicted_through: Option<ResultId>,
    newest: Option<(ResultId, Window)>,
    finals: Vec<Arc<Final>>,
    totals: RoomTotals,
    /// Window, `emitted_at` and frame of each live tally.
    live: Vec<(Window, u64, EncodedFrame)>,
    trending: Option<Trending>,
}

/// A snapshot contains text that is not a frame, or a frame of the wrong kind, of another room, or out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InvalidSnapshot;

impl ParsedSnapshot {
    /// Parses a snapshot, and checks that its frames are valid.
    pub(crate) fn parse(snapshot: &RoomSnapshot) -> Result<Self, InvalidSnapshot> {
        let mine = |room: &Room| {
            (*room == snapshot.room)
                .then_some(())
                .ok_or(InvalidSnapshot)
        };
        let mut finals: Vec<Arc<Final>> = Vec::with_capacity(snapshot.finals.len());
        for text in &snapshot.finals {
            let frame = frame(text)?;
            let Frame::Final {
                id,
                room,
                window,
                emitted_at,
                ..
            } = &frame
            else {
                return Err(InvalidSnapshot);
            };
            mine(room)?;
            let before = finals.last().map(|before| before.id);
            let follows =
                |before: ResultId| before.partition == id.partition && before.offset < id.offset;
            if !before.is_none_or(follows) {
                return Err(InvalidSnapshot);
            }
            finals.push(Arc::new(Final {
                id: *id,
                window: *window,
                written_ms: *emitted_at,
                frame: EncodedFrame::new(&frame),
            }));
        }
        // All final results are of one partition. If the list is not empty, its last final result is the newest one.
        let newest = snapshot.newest;
        let last = finals.last().map(|last| (last.id, last.window));
        let elsewhere = |id: ResultId| newest.is_some_and(|(n, _)| n.partition != id.partition);
        if last.is_some_and(|last| newest != Some(last))
            || snapshot.evicted_through.is_some_and(elsewhere)
        {
            return Err(InvalidSnapshot);
        }
        // The totals of a room are as of its newest final result. So if there is a final result, the totals must be as
        // of its position.
        if newest.is_some() && snapshot.totals_as_of.is_none() {
            return Err(InvalidSnapshot);
        }
        let mut live = Vec::with_capacity(snapshot.live.len());
        for text in &snapshot.live {
            let frame = frame(text)?;
            let Frame::Live {
                room,
                window,
                emitted_at,
                ..
            } = &frame
            else {
                return Err(InvalidSnapshot);
            };
            mine(room)?;
            live.push((*window, *emitted_at, EncodedFrame::new(&frame)));
        }
        let mut trending = None;
        if let Some(now) = &snapshot.trending {
            let frame = frame(&now.frame)?;
            let Frame::Trending {
                room, top, span_ms, ..
            } = &frame
            else {
                return Err(InvalidSnapshot);
            };
            mine(room)?;
            trending = Some(Trending {
                version: 0,
                order: now.order,
                span_ms: *span_ms,
                ended: top.is_empty(),
                frame: EncodedFrame::new(&frame),
            });
        }
        Ok(Self {
            evicted_through: snapshot.evicted_through,
            newest,
            finals,
            totals: RoomTotals::of(&snapshot.totals, snapshot.totals_as_of),
            live,
            trending,
        })
    }

    /// Returns the id and the window of the newest final result.
    pub(crate) fn newest(&self) -> Option<(ResultId, Window)> {
        self.newest
    }
}

fn frame(text: &str) -> Result<Frame, InvalidSnapshot> {
    let mut frame = serde_json::from_str(text).map_err(|_| InvalidSnapshot)?;
    if let Frame::Live {
        total,
        counts,
        others,
        ..
    }
    | Frame::Final {
        total,
        counts,
        others,
        ..
    } = &mut frame
    {
        // The upstream's build may know emojis that this build does not know. Their counts have to be in `others`.
        let named = counts.iter().map(|tally| tally.count);
        let named = named.fold(0, u64::saturating_add);
        *others = total.saturating_sub(named).max(*others);
    }
    Ok(frame)
}

impl RoomState {
    /// Returns the room's snapshot without the final results for which `has` is true, since the relay has them already.
    pub(crate) fn snapshot(&self, room: &Room, has: impl Fn(ResultId) -> bool) -> RoomSnapshot {
        let text = |frame: &EncodedFrame| frame.json().to_string();
        let mut live: Vec<_> = self.live.values().collect();
        live.sort_by_key(|live| live.version);
        RoomSnapshot {
            room: room.clone(),
            evicted_through: self.evicted_through,
            newest: self.newest().map(|newest| (newest.id, newest.window)),
            finals: self
                .finals
                .iter()
                .filter(|kept| !has(kept.id))
                .map(|kept| text(&kept.frame))
                .collect(),
            totals_as_of: self.totals.as_of(),
            totals: self.totals.counts(),
            live: live.into_iter().map(|live| text(&live.frame)).collect(),
            trending: self.trending.as_ref().map(|trending| TrendingNow {
                order: trending.order,
                frame: text(&trending.frame),
            }),
        }
    }

    /// Merges the snapshot of the upstream's room. Returns `false` if it contains nothing new.
    pub(crate) fn merge(&mut self, snapshot: ParsedSnapshot) -> bool {
        let mut is_new = self.merge_finals(
            snapshot.totals.as_of(),
            snapshot.evicted_through,
            snapshot.newest,
            snapshot.finals,
        );
        is_new |= self.adopt_totals(snapshot.totals);
        for (window, emitted_at, frame) in snapshot.live {
            is_new |= !self.is_closed(window) && self.show_live(window, emitted_at, frame);
        }
        if let Some(trending) = snapshot.trending {
            is_new |= self.show_trending(trending);
        }
        is_new
    }

    /// Merges the final results of the upstream's room, whose totals are as of the position `as_of`. Returns `false` if
    /// nothing is new.
    fn merge_finals(
        &mut self,
        as_of: Option<ResultOrder>,
        evicted_through: Option<ResultId>,
        newest: Option<(ResultId, Window)>,
        finals: Vec<Arc<Final>>,
    ) -> bool {
        let last = newest.map(|(id, _)| id).or(evicted_through);
        let Some(partition) = last.map(|id| id.partition) else {
            return false;
        };
        if self.partition().is_some_and(|mine| mine != partition) {
            if as_of <= self.totals.as_of() {
                return false;
            }
            self.reset_for_partition();
        }
        let seen = self.newest_id();
        let behind = |id: ResultId| seen.is_none_or(|seen| seen.offset < id.offset);
        let mut is_new = false;
        if let Some(evicted_through) = evicted_through.filter(|id| behind(*id)) {
            // Neither node has the final results between the newest one of this room and `evicted_through`. So the ring
            // is emptied, and subscribers receive a gap.
            self.finals.clear();
            self.evictions += u64::from(seen.is_some());
            self.evicted_through = Some(evicted_through);
            is_new = true;
        }
        let resets = as_of.map_or(0, |as_of| as_of.resets);
        for kept in finals {
            if behind(kept.id) {
                self.push_kept(resets, kept);
                is_new = true;
            }
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::testing::{closed, record_of};
    use emostream_model::{RelayFinal, TrendingRecord, WindowRecord};
    use proptest::prelude::*;

    const FINALS: u64 = 12;

    fn record(nth: u64, emitted_at: Option<u64>) -> WindowRecord {
        record_of(nth, nth + 1, emitted_at)
    }

    /// Returns the id of the `nth` final result. The offsets have gaps, as they have with Kafka's transactions.
    fn id(nth: u64) -> ResultId {
        ResultId {
            partition: 2,
            offset: 3 * nth + 1,
        }
    }

    fn push(room: &mut RoomState, nth: u64, begins: bool) -> bool {
        let closed = closed(id(nth), nth, record(nth, None));
        room.push_final(RelayFinal { begins, ..closed }, None)
    }

    /// Returns a room to which `read` final results were applied. The first `expired` of them are not in the ring any
    /// more.
    fn upstream(read: u64, expired: u64) -> RoomState {
        let mut room = RoomState::default();
        for nth in 0..read {
            push(&mut room, nth, nth == 0);
        }
        room.expire(expired);
        room
    }

    /// An event of a room at the publisher.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Final { nth: u64, begins: bool },
        Removed { before: u64 },
    }

    /// Returns random sequences of events: final results, with some of which the totals begin at 0, and removals of the
    /// room.
    fn events() -> impl Strategy<Value = Vec<Event>> {
        let kind = prop_oneof![6 => Just((true, false)), 1 => Just((true, true)), 1 => Just((false, false))];
        let kinds = proptest::collection::vec(kind, FINALS as usize);
        kinds.prop_map(|kinds| {
            let (mut nth, mut idle) = (0, true);
            let event = |(is_final, begins): (bool, bool)| {
                let begins = begins || idle;
                idle = !is_final;
                nth += 1;
                match is_final {
                    true => Event::Final { nth, begins },
                    false => Event::Removed { before: nth },
                }
            };
            kinds.into_iter().map(event).collect()
        })
    }

    fn apply_events(room: &mut RoomState, events: &[Event]) {
        for event in events {
            match *event {
                Event::Final { nth, begins } => {
                    push(room, nth, begins);
                }
                Event::Removed { before } => {
                    let before = ResultOrder::new(0, record(before, None).window);
                    room.remove(&Room::default(), before);
                }
            }
        }
    }

    /// Returns a room to which these events were applied. Final results before `expired` are not in its ring any more.
    fn after(events: &[Event], expired: u64) -> RoomState {
        let mut room = RoomState::default();
        apply_events(&mut room, events);
        room.expire(expired);
        room
    }

    /// Returns the number of windows that have passed after these events.
    fn windows(events: &[Event]) -> u64 {
        events.last().map_or(0, |last| match *last {
            Event::Final { nth, .. } => nth + 1,
            Event::Removed { before } => before,
        })
    }

    fn merge(relay: &mut RoomState, upstream: &RoomState, has: u64) -> bool {
        let end = if has == 0 { 0 } else { id(has - 1).offset + 1 };
        let snapshot = upstream.snapshot(&Room::default(), |id| id.offset < end);
        relay.merge(ParsedSnapshot::parse(&snapshot).unwrap())
    }

    fn frames(room: &RoomState) -> Vec<String> {
        room.finals()
            .map(|kept| kept.frame.json().to_string())
            .collect()
    }

    proptest! {
        /// For any sequence of snapshots from any nodes, the relay's room equals the room of an upstream that has
        /// applied as many events, except for final results that no node has any more.
        #[test]
        fn a_relay_s_room_equals_that_of_the_node_with_most_finals(
            events in events(),
            visits in proptest::collection::vec((0..=FINALS as usize, 0..=FINALS, 0..=FINALS as usize), 1..6)
        ) {
            let mut relay = RoomState::default();
            // The number of events that the relay knows.
            let mut has = 0;
            for (read, expired, goes_on_to) in visits {
                merge(&mut relay, &after(&events[..read], expired), windows(&events[..has]));
                apply_events(&mut relay, events.get(read..goes_on_to).unwrap_or_default());
                has = has.max(read).max(goes_on_to);
                let truth = after(&events[..has], 0);
                prop_assert_eq!(relay.totals(), truth.totals());
                // The ring has every final result after `evicted_through`, with the frame that the oracle has.
                let first = relay.evicted_through().map_or(0, |id| id.offset + 1);
                let expected: Vec<String> = truth.finals().filter(|kept| kept.id.offset >= first)
                    .map(|kept| kept.frame.json().to_string()).collect();
                prop_assert_eq!(frames(&relay), expected);
                if let Some(newest) = truth.newest() {
                    prop_assert!(!relay.contradicts(newest.id, newest.window));
                }
            }
        }

        #[test]
        fn invalid_room_names_are_rejected(text in ".{0,40}") {
            let mut snapshot = upstream(3, 0).snapshot(&Room::default(), |_| false);
            prop_assert!(ParsedSnapshot::parse(&snapshot).is_ok());
            snapshot.finals[1] = text.clone();
            prop_assert!(ParsedSnapshot::parse(&snapshot).is_err());
            snapshot.finals.clear();
            snapshot.live = vec![text];
            prop_assert!(ParsedSnapshot::parse(&snapshot).is_err());
        }
    }

    #[test]
    fn counts_of_unknown_emojis_are_in_the_others() {
        let mut snapshot = upstream(3, 0).snapshot(&Room::default(), |_| false);
        let known = snapshot.finals[2].clone();
        assert!(known.contains("\"count\":3") && !known.contains("others"));
        snapshot.finals[2] = known.replace("🔥", "新");
        let parsed = ParsedSnapshot::parse(&snapshot).unwrap();
        let kept = parsed.finals[2].frame.json().to_string();
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            (&kept["counts"], &kept["total"], &kept["others"]),
            (&serde_json::json!([]), &3.into(), &3.into())
        );
        // Only entries of unknown emojis are left out: an invalid entry of a known emoji makes the snapshot invalid.
        snapshot.finals[2] = known.replace("\"loose\":3", "\"lose\":3");
        assert!(ParsedSnapshot::parse(&snapshot).is_err());
    }

    #[test]
    fn frames_of_another_room_or_out_of_order_are_rejected() {
        let good = upstream(3, 0).snapshot(&Room::default(), |_| false);
        let mut other = good.clone();
        other.room = Room::new("other").unwrap();
        let mut turned = good.clone();
        turned.finals.swap(0, 1);
        let mut cut = good.clone();
        cut.finals.pop();
        for bad in [other, turned, cut] {
            assert_eq!(ParsedSnapshot::parse(&bad).unwrap_err(), InvalidSnapshot);
        }
    }

    #[test]
    fn a_relay_that_was_disconnected_for_longer_than_the_ring_sends_a_gap() {
        let mut relay = upstream(2, 0);
        let evictions = relay.evictions();
        assert!(merge(&mut relay, &upstream(6, 4), 2));
        assert_eq!(relay.evicted_through(), Some(id(3)));
        assert_eq!(relay.evictions(), evictions + 1);
        assert_eq!(frames(&relay), frames(&upstream(6, 4)));
    }

    #[test]
    fn a_snapshot_adds_live_tallies_and_trending_lists_once() {
        let mut upstream = upstream(3, 0);
        upstream.push_live(record(3, Some(31)));
        upstream.push_live(record(4, Some(41)));
        let trending = |nth: u64| TrendingRecord {
            room: Room::default(),
            window: record(nth, None).window,
            span_ms: 60,
            top: Vec::new(),
        };
        upstream.push_trending(trending(2));
        let mut relay = RoomState::default();
        assert!(merge(&mut relay, &upstream, 0));
        assert_eq!(relay.live_after(0).unwrap().window, record(3, None).window);
        assert_eq!(relay.live().unwrap().frame, upstream.live().unwrap().frame);
        assert_eq!((relay.trending_version(), relay.trending()), (1, None));
        assert!(!merge(&mut relay, &upstream, 3), "nothing is new");
        // The snapshot of an upstream that lags behind is older than the relay's room.
        assert!(relay.push_live(record(4, Some(45))));
        assert!(!merge(&mut relay, &upstream, 3));
        assert!(!relay.push_trending(trending(1)));
    }

    #[test]
    fn a_recreated_log_is_detected() {
        let relay = upstream(5, 2);
        let window = |nth: u64| record(nth, None).window;
        assert!(!relay.contradicts(id(4), window(4)), "the newest again");
        assert!(
            !relay.contradicts(id(3), window(3)),
            "one of the ring again"
        );
        assert!(!relay.contradicts(id(1), window(1)), "one that has expired");
        assert!(!relay.contradicts(id(9), window(9)), "the next");
        assert!(
            relay.contradicts(id(4), window(9)),
            "another of this offset"
        );
        let between = ResultId {
            offset: id(3).offset + 1,
            ..id(3)
        };
        assert!(relay.contradicts(between, window(9)), "none was there");
        assert!(relay.contradicts(id(1), window(9)), "later, and yet before");
    }
}
