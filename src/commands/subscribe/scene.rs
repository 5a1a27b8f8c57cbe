//! The state of the view of a room, which is computed from the messages of the server. The rules are pure functions:
//! the current time is an argument.
//!
//! ```text
//!  live, final ──▶ counts: the totals of the finals, plus the open windows
//!              └─▶ rising emojis: a few for new reactions, a large one for each swarm
//! ```
//!
//! Invariants: a reaction is counted in the totals or in an open window, never in both. Reactions from before the
//! connection do not rise, and do not count in the rate.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use emostream_model::{Count, Emoji, Frame, ResultId, Room, Tally, Window};

use super::{super::load::MARKS, lines};

/// Maximum number of open windows. There are more only if a clock is wrong. The oldest window is then dropped.
const OPEN_WINDOWS: usize = 8;
/// Number of final results that are kept for the picture: the last ones.
const MOMENTS: usize = 10;
/// Span of time over which the rate is measured: two windows of the default size.
const RATE_SPAN: Duration = Duration::from_secs(4);
/// How long after its end an open window is still shown as the current one, by the server's clock. The final result of
/// a window normally arrives within seconds. If none arrives for this time, the dataflow has stopped.
const PRESENT_MS: u64 = 10_000;
/// Time for which an emoji rises on the screen.
pub(super) const FLIGHT: Duration = Duration::from_secs(4);
/// Maximum number of loose emojis that rise at the same time: a terminal of 80 columns has no space for more.
const FLIGHTS: usize = 48;
/// Span over which the starts of emojis from one tally are spread: about the time until the next tally.
const STAGGER: Duration = Duration::from_millis(300);
/// Maximum number of loose emojis of one kind that start to rise at one tally.
const RISES: u64 = 3;
/// The golden ratio. Each emoji starts this share of the width to the right of the previous emoji, so that the emojis
/// are spread evenly.
const GOLDEN: f64 = 0.618_034;

/// An emoji that rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Flight {
    pub(super) emoji: Emoji,
    /// The number of reactions that a swarm represents; `None` for a loose emoji.
    pub(super) swarm: Option<u64>,
    /// The horizontal position, as a share of the width.
    pub(super) place: f64,
    pub(super) since: Instant,
}

/// A closed window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moment {
    pub(super) id: ResultId,
    pub(super) window: Window,
    pub(super) total: u64,
    pub(super) counts: Vec<Tally>,
}

/// An open window.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Open {
    pub(super) window: Window,
    pub(super) total: u64,
    pub(super) counts: Vec<Tally>,
}

/// The state of the connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Standing {
    Live,
    Lost { why: String, next: Instant },
}

/// The state of the view of a room: its counts, the emojis that rise, and the state of the connection.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) room: Room,
    pub(super) standing: Standing,
    pub(super) notice: Option<String>,
    /// Whether new counts reach the server. If they do not, it is not known whether the room is quiet.
    pub(super) counting: bool,
    pub(super) trending: Option<(u64, Vec<Count>)>,
    pub(super) moments: VecDeque<Moment>,
    pub(super) flights: Vec<Flight>,
    swarm_size: u64,
    totals: BTreeMap<Emoji, u64>,
    totals_others: u64,
    final_until: u64,
    open: BTreeMap<u64, Open>,
    samples: VecDeque<(Instant, u64)>,
    /// The server's time when the connection began, Unix milliseconds; 0 before the first connection.
    joined_ms: u64,
    /// The id of the newest final result that the room had when the connection began.
    latest: Option<ResultId>,
    /// The server's time that was received last (Unix milliseconds), and the time of this host at which it was
    /// received.
    clock: Option<(Instant, u64)>,
    /// Whether a gap was received, and no live tally after it. During this time the totals grow by the final results
    /// that were missed, and this growth must not count in the rate.
    catching_up: bool,
    turn: f64,
}

impl Scene {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            standing: Standing::Live,
            notice: None,
            counting: true,
            trending: None,
            moments: VecDeque::new(),
            flights: Vec::new(),
            swarm_size: 1000,
            totals: BTreeMap::new(),
            totals_others: 0,
            final_until: 0,
            open: BTreeMap::new(),
            samples: VecDeque::new(),
            joined_ms: 0,
            latest: None,
            clock: None,
            catching_up: false,
            turn: 0.0,
        }
    }

    /// Applies a message that was received at `now`.
    pub(super) fn take(&mut self, frame: &Frame, now: Instant) {
        self.standing = Standing::Live;
        let is_past = self.is_past(frame, now);
        match frame {
            Frame::Hello {
                now: server_ms,
                latest,
                swarm_size,
                resumed,
                counting,
                ..
            } => {
                self.counting = *counting;
                self.joined_ms = *server_ms;
                self.latest = *latest;
                self.clock = (*server_ms > 0).then_some((now, *server_ms));
                self.catching_up = false;
                self.swarm_size = (*swarm_size).max(1);
                if !resumed {
                    // The open windows are discarded. Their reactions are not lost: the next final results contain
                    // them.
                    self.open.clear();
                }
            }
            Frame::Heartbeat {
                now: server_ms,
                counting,
            } => {
                self.clock = Some((now, *server_ms));
                self.counting = *counting;
            }
            Frame::Live {
                window,
                total,
                counts,
                ..
            } => {
                self.catching_up = false;
                if window.start >= self.final_until {
                    if !is_past {
                        self.rise(*window, counts, now);
                    }
                    let open = Open {
                        window: *window,
                        total: *total,
                        counts: counts.clone(),
                    };
                    self.open.insert(window.start, open);
                    if self.open.len() > OPEN_WINDOWS {
                        self.open.pop_first();
                    }
                }
            }
            Frame::Final {
                id,
                window,
                total,
                counts,
                totals,
                totals_others,
                ..
            } => {
                self.notice = None;
                if !is_past {
                    self.rise(*window, counts, now);
                }
                self.open.retain(|start, _| *start >= window.end);
                self.final_until = self.final_until.max(window.end);
                // If the frame lists only the top emojis, the total of an emoji that it does not list is its last known
                // total plus its count in this window.
                if *totals_others == 0 {
                    self.totals.clear();
                } else {
                    for tally in counts {
                        *self.totals.entry(tally.emoji).or_default() += tally.count;
                    }
                }
                self.totals
                    .extend(totals.iter().map(|count| (count.emoji, count.count)));
                self.totals_others = *totals_others;
                self.remember(Moment {
                    id: *id,
                    window: *window,
                    total: *total,
                    counts: counts.clone(),
                });
            }
            Frame::Trending { span_ms, top, .. } => {
                self.trending = (!top.is_empty()).then(|| (*span_ms, top.clone()));
            }
            Frame::Gap { after, reason } => {
                self.catching_up = true;
                let why = lines::why(*reason);
                self.notice = Some(format!("finals after {after} were missed: {why}"));
            }
            Frame::Bye { retry_ms } => {
                self.notice = Some(lines::bye(*retry_ms));
            }
        }
        if is_past {
            self.samples.clear();
        }
        self.samples.push_back((now, self.sum()));
    }

    /// Whether a message reports old reactions: reactions that were counted before the connection began or while final
    /// results were missed, or that were counted long after they were sent, because counting had stopped.
    fn is_past(&self, frame: &Frame, now: Instant) -> bool {
        self.catching_up
            || match frame {
                Frame::Hello { .. } => true,
                Frame::Final { id, window, .. } => {
                    let is_known = self.latest.is_some_and(|latest| id.is_up_to(latest));
                    is_known || self.is_over(*window, now)
                }
                Frame::Live {
                    emitted_at, window, ..
                } => *emitted_at < self.joined_ms || self.is_over(*window, now),
                _ => false,
            }
    }

    /// Whether, by the server's clock, a window ended at least [`PRESENT_MS`] before `now`.
    fn is_over(&self, window: Window, now: Instant) -> bool {
        let server_ms = self.clock.map_or(0, |(at, ms)| {
            ms.saturating_add(now.saturating_duration_since(at).as_millis() as u64)
        });
        window.end.saturating_add(PRESENT_MS) <= server_ms
    }

    /// Notes that the connection is lost, with the reason. The next attempt to connect is at `next`.
    pub(super) fn lost(&mut self, why: String, next: Instant) {
        self.standing = Standing::Lost { why, next };
    }

    /// Returns the number of all reactions that were counted in the room.
    pub(super) fn sum(&self) -> u64 {
        let open: u64 = self.open.values().map(|open| open.total).sum();
        self.listed() + open
    }

    /// Returns the sum of the totals. The emojis that frames do not list are included by their sum, `totals_others`.
    fn listed(&self) -> u64 {
        let mut listed: Vec<u64> = self.totals.values().copied().collect();
        if self.totals_others > 0 {
            listed.sort_unstable_by(|a, b| b.cmp(a));
            listed.truncate(emostream_model::FRAME_COUNTS);
        }
        listed.iter().sum::<u64>() + self.totals_others
    }

    /// Returns the emojis with their counts, the greatest count first. Open windows are included.
    pub(super) fn ranking(&self) -> Vec<(Emoji, u64)> {
        let mut counts = self.totals.clone();
        for tally in self.open.values().flat_map(|open| &open.counts) {
            *counts.entry(tally.emoji).or_default() += tally.count;
        }
        let mut ranking: Vec<(Emoji, u64)> = counts.into_iter().collect();
        emostream_model::sort_counts(&mut ranking, |(emoji, count)| (*count, *emoji));
        ranking
    }

    /// Returns the newest open window. Returns `None` if this window ended at least [`PRESENT_MS`] before `now`.
    pub(super) fn newest(&self, now: Instant) -> Option<&Open> {
        let newest = self.open.values().next_back()?;
        (!self.is_over(newest.window, now)).then_some(newest)
    }

    /// Returns the rate of reactions per second over the last [`RATE_SPAN`].
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let within = |(at, _): &&(Instant, u64)| now.duration_since(*at) <= RATE_SPAN;
        let Some((first, before)) = self.samples.iter().find(within) else {
            return 0.0;
        };
        let span = now.duration_since(*first).max(Duration::from_secs(1));
        self.sum().saturating_sub(*before) as f64 / span.as_secs_f64()
    }

    fn remember(&mut self, moment: Moment) {
        self.moments.push_front(moment);
        self.moments.truncate(MOMENTS);
    }

    /// Lets an emoji rise for each reaction that is in this tally and not in the previous tally of the same window.
    fn rise(&mut self, window: Window, counts: &[Tally], now: Instant) {
        let before = |emoji: Emoji| {
            let open = self.open.get(&window.start);
            let known = open.and_then(|open| open.counts.iter().find(|t| t.emoji == emoji));
            known.map_or(0, |tally| tally.count)
        };
        let marks = MARKS.map(|mark| Emoji::from_text(mark).ok());
        let rises: Vec<(Emoji, u64, u64)> = counts
            .iter()
            .filter(|tally| !marks.contains(&Some(tally.emoji)))
            .map(|tally| (tally.emoji, before(tally.emoji), tally.count))
            .collect();
        let mut loose = Vec::new();
        for (emoji, before, after) in rises {
            let swarms = (after / self.swarm_size).saturating_sub(before / self.swarm_size);
            if swarms > 0 {
                self.fly(emoji, Some(swarms * self.swarm_size), now);
            }
            let others = after.saturating_sub(before);
            let others = others.saturating_sub(swarms * self.swarm_size);
            loose.extend((0..others.min(RISES)).map(|_| emoji));
        }
        // The emojis of one tally fill at most a quarter of the free places, so that emojis rise steadily and not in
        // bursts.
        let aloft = self.flights.iter().filter(|f| f.swarm.is_none()).count();
        let free = FLIGHTS.saturating_sub(aloft).div_ceil(4);
        for emoji in spread(&loose, free) {
            self.fly(emoji, None, now);
        }
        self.flights
            .retain(|flight| now.duration_since(flight.since) < FLIGHT);
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > 2 * RATE_SPAN)
        {
            self.samples.pop_front();
        }
    }

    fn fly(&mut self, emoji: Emoji, swarm: Option<u64>, now: Instant) {
        self.turn = (self.turn + GOLDEN).fract();
        self.flights.push(Flight {
            emoji,
            swarm,
            place: self.turn,
            since: now + STAGGER.mul_f64((self.turn * 7.0).fract()),
        });
        if self.flights.len() > 2 * FLIGHTS {
            self.flights.remove(0);
        }
    }
}

/// Returns at most `most` of the emojis, chosen at even distances in the list.
fn spread(emojis: &[Emoji], most: usize) -> Vec<Emoji> {
    let step = emojis.len().div_ceil(most.max(1)).max(1);
    emojis.iter().step_by(step).copied().collect()
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    pub(in crate::commands::subscribe) fn frame(json: serde_json::Value) -> Frame {
        serde_json::from_value(json).unwrap()
    }

    pub(in crate::commands::subscribe) fn live(start: u64, fires: u64) -> Frame {
        live_at(0, start, fires)
    }

    fn live_at(emitted_at: u64, start: u64, fires: u64) -> Frame {
        frame(
            json!({"type": "live", "room": "a", "start": start, "end": start + 2000, "emitted_at": emitted_at,
            "total": fires, "counts": [{"emoji": "🔥", "count": fires, "swarms": fires / 1000, "loose": fires % 1000}]}),
        )
    }

    pub(in crate::commands::subscribe) fn a_final(start: u64, fires: u64, ever: u64) -> Frame {
        frame(
            json!({"type": "final", "id": format!("0-{start}"), "room": "a", "start": start, "end": start + 2000,
            "emitted_at": 0, "total": fires, "totals": [{"emoji": "🔥", "count": ever}],
            "counts": [{"emoji": "🔥", "count": fires, "swarms": fires / 1000, "loose": fires % 1000}]}),
        )
    }

    fn scene() -> Scene {
        Scene::new(Room::new("a").unwrap())
    }

    proptest! {
        #[test]
        fn the_sum_neither_dips_nor_doubles_when_windows_close(
            windows in proptest::collection::vec(proptest::collection::vec(1_u64..3000, 0..4), 1..12),
        ) {
            let (mut scene, now, mut ever) = (scene(), Instant::now(), 0);
            for (at, tallies) in windows.iter().enumerate() {
                let (start, mut fires) = (at as u64 * 2000, 0);
                for more in tallies {
                    fires += more;
                    scene.take(&live(start, fires), now);
                    prop_assert_eq!(scene.sum(), ever + fires);
                }
                if fires > 0 {
                    ever += fires;
                    scene.take(&a_final(start, fires, ever), now);
                    prop_assert_eq!(scene.sum(), ever);
                    prop_assert_eq!(scene.ranking()[0].1, ever);
                    // A live tally that comes after the final result is ignored, because its window is closed.
                    scene.take(&live(start, fires), now);
                    prop_assert_eq!(scene.sum(), ever);
                }
                prop_assert!(scene.flights.len() <= 2 * FLIGHTS);
            }
        }
    }

    #[test]
    fn each_swarm_rises_once_and_a_few_of_the_others() {
        let (mut scene, now) = (scene(), Instant::now());
        scene.take(&live(0, 2500), now);
        scene.take(&live(0, 2501), now);
        scene.take(&a_final(0, 3000, 3000), now);
        let swarms: Vec<u64> = scene.flights.iter().filter_map(|f| f.swarm).collect();
        assert_eq!(swarms, [2000, 1000]);
        assert_eq!(scene.flights.len(), 2 + 3 + 1);
        scene.take(&live(4000, 1), now + FLIGHT + STAGGER);
        assert_eq!(
            scene.flights.len(),
            1,
            "emojis disappear after they have risen"
        );
    }

    #[test]
    fn marks_and_the_probe_s_emoji_do_not_rise() {
        let (mut scene, now) = (scene(), Instant::now());
        for (window, mark) in MARKS.iter().enumerate() {
            let start = window * 2000;
            let tally = json!({"emoji": mark, "count": 1, "swarms": 0, "loose": 1});
            let live = json!({"type": "live", "room": "a", "start": start, "end": start + 2000,
                "emitted_at": 0, "total": 1, "counts": [tally]});
            scene.take(&frame(live), now);
        }
        assert_eq!((scene.flights.len(), scene.sum()), (0, 3));
    }

    #[test]
    fn a_rate_is_what_was_added_lately() {
        let (mut scene, now) = (scene(), Instant::now());
        assert_eq!(scene.rate(now), 0.0);
        scene.take(&live(0, 100), now);
        scene.take(&live(0, 300), now + Duration::from_secs(2));
        assert_eq!(scene.rate(now + Duration::from_secs(2)), 100.0);
        assert_eq!(scene.rate(now + Duration::from_secs(60)), 0.0);
    }

    fn hello(now: u64, latest: &str, resumed: bool) -> Frame {
        frame(
            json!({"type": "hello", "room": "a", "now": now, "latest": latest, "window_ms": 2000, "live_ms": 250,
            "swarm_size": 1000, "resumed": resumed}),
        )
    }

    #[test]
    fn reactions_before_the_connection_do_not_rise_and_do_not_count_in_the_rate() {
        let (mut scene, now) = (scene(), Instant::now());
        // The newest final result is a minute old, and one window is open.
        for frame in [
            hello(62_000, "0-0", false),
            a_final(0, 6000, 50_000),
            live_at(61_900, 60_000, 4000),
        ] {
            scene.take(&frame, now);
        }
        assert_eq!((scene.flights.len(), scene.rate(now)), (0, 0.0));
        // Reactions that are counted after the connection began rise.
        scene.take(&live_at(62_250, 60_000, 4001), now);
        assert_eq!(scene.flights.len(), 1);
        scene.take(&a_final(60_000, 4002, 54_002), now);
        assert_eq!(scene.flights.len(), 2);
        // The reactions that were counted during an outage are sent after the reconnect, and do not rise.
        scene.take(&hello(122_000, "0-80000", true), now);
        scene.take(&a_final(80_000, 9000, 63_002), now);
        assert_eq!((scene.flights.len(), scene.rate(now)), (2, 0.0));
    }

    #[test]
    fn in_a_room_without_finals_the_first_one_rises() {
        let (mut scene, now) = (scene(), Instant::now());
        let hello = json!({"type": "hello", "room": "a", "now": 62_000, "latest": null, "window_ms": 2000,
            "live_ms": 250, "swarm_size": 1000, "resumed": false});
        scene.take(&frame(hello), now);
        scene.take(&a_final(60_000, 1, 1), now);
        assert_eq!(scene.flights.len(), 1);
    }

    #[test]
    fn reactions_that_are_counted_after_a_stop_of_counting_do_not_rise() {
        let (mut scene, now) = (scene(), Instant::now());
        let minute_later = now + Duration::from_secs(60);
        scene.take(&hello(62_000, "0-0", false), now);
        // The windows of the stop are closed when the dataflow runs again.
        scene.take(&a_final(64_000, 5000, 5000), minute_later);
        assert_eq!((scene.flights.len(), scene.rate(minute_later)), (0, 0.0));
        scene.take(&live_at(122_250, 122_000, 1), minute_later);
        assert_eq!(scene.flights.len(), 1);
    }

    #[test]
    fn a_window_that_ended_long_ago_by_the_server_s_time_is_not_the_present() {
        let (mut scene, now) = (scene(), Instant::now());
        scene.take(&hello(62_000, "0-0", false), now);
        scene.take(&live_at(61_900, 60_000, 4), now);
        let seconds = |seconds| now + Duration::from_secs(seconds);
        assert!(scene.newest(seconds(9)).is_some());
        assert!(scene.newest(seconds(10)).is_none());
        // The final result of the window did not come, but a heartbeat reports that the server's time has advanced.
        let heartbeat = Frame::Heartbeat {
            now: 77_000,
            counting: true,
        };
        scene.take(&heartbeat, seconds(1));
        assert!(scene.newest(seconds(1)).is_none());
    }

    #[test]
    fn reactions_before_the_connection_do_not_count_in_the_rate() {
        let (mut scene, now) = (scene(), Instant::now());
        let later = now + Duration::from_secs(2);
        for frame in [
            &hello(1, "0-0", false),
            &a_final(0, 6000, 50_000),
            &live(2000, 4000),
        ] {
            scene.take(frame, now);
            assert_eq!(scene.rate(now), 0.0);
        }
        scene.take(&a_final(2000, 6000, 56_000), later);
        assert_eq!(scene.rate(later), 1000.0);
        let gap =
            frame(json!({"type": "gap", "room": "a", "after": "0-2000", "reason": "expired"}));
        for missed in [
            [&hello(2, "0-4000", true), &a_final(4000, 6000, 62_000)],
            [&gap, &a_final(8000, 6000, 90_000)],
        ] {
            for frame in missed {
                scene.take(frame, later);
                assert_eq!(scene.rate(later), 0.0);
            }
        }
    }
}
