//! The probe measures the time from sending a reaction until a subscriber receives a frame that contains the reaction.
//!
//! The probe sends one reaction at a time, at random times, to the most frequent room, with an emoji that no other
//! client sends there. The latency is the time from before the POST until a live or a final frame over a WebSocket
//! shows the reaction. The probe also measures the longest pause between such frames. If the server is unavailable for
//! some seconds, only a few reactions of the probe are delayed, and no percentile would show that.

#![allow(clippy::disallowed_methods, reason = "this module measures latencies")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use emostream_model::{Emoji, Frame, Room, Window};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use super::ledger::{latencies, record};
use crate::{
    cli::parse::Rate,
    client::{Answer, Connections, Endpoint, Subscription, SubscriptionEvent, Transport},
};

/// The emoji of the probe. It is not part of the workload or of the verdict.
pub(super) const PROBE: &str = "⏱️";
/// Time within which a frame must show a reaction; otherwise the reaction counts as missed.
const SHOWN_LIMIT: Duration = Duration::from_secs(15);
/// Timeout of the first connection.
const HELLO_LIMIT: Duration = Duration::from_secs(10);

/// A running probe.
pub(super) struct Probe {
    stop: watch::Sender<bool>,
    task: JoinHandle<Probed>,
}

/// The measurements of a probe.
#[derive(Debug)]
pub(super) struct Probed {
    /// Time from just before the POST until the frame that shows the reaction, microseconds.
    pub(super) shown_us: Histogram<u64>,
    /// Number of accepted reactions that no frame showed in time.
    pub(super) missed: u64,
    /// Number of reactions that were not accepted, so that they were not measured.
    pub(super) unsent: u64,
    /// The longest time between two tallies that the probe received.
    pub(super) longest_pause: Duration,
}

impl Probe {
    pub(super) fn start(
        screens: &Endpoint,
        room: Room,
        poster: &Arc<Connections>,
        rate: Rate,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let screen = Subscription::new(screens.clone(), room.clone(), Transport::WebSocket);
        let task = tokio::spawn(measure(screen, room, poster.clone(), rate, stopped));
        Self { stop, task }
    }

    /// Waits for the reaction in flight, stops the probe, and returns the measurements.
    pub(super) async fn finish(self) -> Probed {
        let _ = self.stop.send(true);
        match self.task.await {
            Ok(probed) => probed,
            Err(defect) => std::panic::resume_unwind(defect.into_panic()),
        }
    }
}

/// The counts of the probe's emoji that the subscriber has received, for each window. The greatest count of a window is
/// kept.
#[derive(Debug)]
struct Screen {
    windows: BTreeMap<Window, u64>,
    changed_at: Instant,
    longest_pause: Duration,
}

impl Screen {
    fn new(now: Instant) -> Self {
        Self {
            windows: BTreeMap::new(),
            changed_at: now,
            longest_pause: Duration::ZERO,
        }
    }

    /// Measures the pause since the last tally. Called when a tally is received, and when the probe ends.
    fn change(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.changed_at);
        self.longest_pause = self.longest_pause.max(pause);
        self.changed_at = now;
    }

    fn show(&mut self, frame: &Frame, now: Instant) {
        if matches!(frame, Frame::Live { .. } | Frame::Final { .. }) {
            self.change(now);
        }
        if let Frame::Live { window, counts, .. } | Frame::Final { window, counts, .. } = frame {
            let probe = Emoji::from_text(PROBE).ok();
            let mine = counts.iter().find(|tally| Some(tally.emoji) == probe);
            let shown = self.windows.entry(*window).or_default();
            *shown = (*shown).max(mine.map_or(0, |tally| tally.count));
        }
    }

    fn total(&self) -> u64 {
        self.windows.values().sum()
    }
}

async fn measure(
    mut room: Subscription,
    name: Room,
    poster: Arc<Connections>,
    rate: Rate,
    mut stopped: watch::Receiver<bool>,
) -> Probed {
    let mut probed = Probed {
        shown_us: latencies(),
        missed: 0,
        unsent: 0,
        longest_pause: Duration::ZERO,
    };
    // The probe waits for `hello`, so that the connection exists before the first reaction is sent.
    let _ = tokio::time::timeout(HELLO_LIMIT, room.next()).await;
    let mut screen = Screen::new(Instant::now());
    let user = poster.user("probe");
    let body = json!({"user_id": user, "emoji_type": PROBE, "room": name}).to_string();
    let mut planned = Instant::now();
    loop {
        // A reaction is sent at a random time in every period. With a fixed interval it would always be sent in the
        // same part of a window.
        let within = rand::random::<f64>() / rate.per_second;
        let due = planned.max(Instant::now()) + Duration::from_secs_f64(within);
        planned += Duration::from_secs_f64(1.0 / rate.per_second);
        let stop = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => true,
            () = watch_until(&mut room, &mut screen, due) => false,
        };
        if stop {
            screen.change(Instant::now());
            probed.longest_pause = screen.longest_pause;
            return probed;
        }
        let (expected, sent_at) = (screen.total() + 1, Instant::now());
        let answer = tokio::select! {
            answer = poster.post("/v1/reactions", body.clone().into()) => answer,
            // Frames are also applied while the probe waits for the response.
            never = watch(&mut room, &mut screen) => match never {},
        };
        if !matches!(answer, Answer::Status(status, _) if status.is_success()) {
            probed.unsent += 1;
            continue;
        }
        match shown(&mut room, &mut screen, expected, sent_at).await {
            Some(took) => record(&mut probed.shown_us, took),
            None => probed.missed += 1,
        }
    }
}

/// Applies the received frames to `screen` until the time `until`.
async fn watch_until(room: &mut Subscription, screen: &mut Screen, until: Instant) {
    let _ = tokio::time::timeout_at(until.into(), watch(room, screen)).await;
}

/// Applies the received frames to `screen` until this future is dropped.
async fn watch(room: &mut Subscription, screen: &mut Screen) -> Infallible {
    while let Ok(event) = room.next().await {
        if let SubscriptionEvent::Frame { frame, .. } = event {
            screen.show(&frame, Instant::now());
        }
    }
    std::future::pending().await
}

async fn shown(
    room: &mut Subscription,
    screen: &mut Screen,
    expected: u64,
    sent_at: Instant,
) -> Option<Duration> {
    let watching = async {
        while screen.total() < expected {
            match room.next().await {
                Ok(SubscriptionEvent::Frame { frame, .. }) => screen.show(&frame, Instant::now()),
                Ok(SubscriptionEvent::Lost { .. }) => {}
                Err(_) => return None,
            }
        }
        Some(sent_at.elapsed())
    };
    tokio::time::timeout(SHOWN_LIMIT, watching)
        .await
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::Tally;

    fn live(start: u64, probes: u64) -> Frame {
        let tally = |emoji: &str, count| Tally {
            emoji: Emoji::from_text(emoji).unwrap(),
            count,
            swarms: 0,
            loose: count,
        };
        Frame::Live {
            room: Room::default(),
            window: Window {
                start,
                end: start + 2000,
            },
            emitted_at: 0,
            total: probes + 700,
            counts: vec![tally("🔥", 700), tally(PROBE, probes)],
            others: 0,
        }
    }

    #[test]
    fn the_screen_counts_the_probe_s_emoji_once_a_window() {
        let now = Instant::now();
        let mut screen = Screen::new(now);
        for (start, probes) in [(0, 1), (0, 2), (2000, 1), (0, 2), (2000, 3)] {
            screen.show(&live(start, probes), now);
        }
        assert_eq!(screen.total(), 5);
    }

    #[test]
    fn the_longest_pause_is_the_longest_time_without_a_tally_up_to_the_end() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut screen = Screen::new(begun);
        screen.show(&live(0, 0), at(250));
        let (now, counting) = (0, true);
        screen.show(&Frame::Heartbeat { now, counting }, at(4000));
        screen.show(&live(0, 1), at(7350));
        screen.show(&live(0, 1), at(7600));
        assert_eq!(screen.longest_pause, Duration::from_millis(7100));
        screen.change(at(20_000));
        assert_eq!(screen.longest_pause, Duration::from_millis(12_400));
    }
}
