//! A subscriber's side of a room, whatever it is connected by.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use emostream_model::{Frame, GapReason, ResultId, Room};
use prometheus::IntGauge;
use tokio::sync::watch;

use crate::{
    Config,
    cursor::{Cursor, Next},
    encoded::Encoded,
    hub::{Entry, Hub},
    metrics::Metrics,
};

/// One subscriber. It holds a cursor, no frames: what it does not take is not kept for it.
pub(crate) struct Subscription {
    entry: Arc<Entry>,
    changed: watch::Receiver<()>,
    cursor: Cursor,
    /// The version of the last live tally delivered, to count what was skipped.
    live_version: u64,
    metrics: Metrics,
    audience: IntGauge,
    hello: Option<Encoded>,
}

impl Subscription {
    /// Joins `room`, behind `since` if that is given. `None` when there are too many rooms.
    pub(crate) fn join(
        hub: &Hub,
        room: &Room,
        since: Option<ResultId>,
        config: &Config,
        metrics: &Metrics,
        transport: &str,
    ) -> Option<Self> {
        let entry = hub.join(room)?;
        let audience = metrics.subscribers.with_label_values(&[transport]);
        audience.inc();
        let changed = entry.watch();
        let (cursor, resumed) = match since {
            Some(id) => Cursor::resume(&entry.state(), id, &hub.read(id.partition)),
            None => (Cursor::join(&entry.state()), false),
        };
        let shape = hub.shape();
        let hello = Frame::Hello {
            room: room.clone(),
            window_ms: shape.window_ms,
            live_ms: config.live_ms,
            swarm_size: shape.swarm_size,
            resumed,
        };
        Some(Self {
            entry,
            changed,
            cursor,
            live_version: 0,
            metrics: metrics.clone(),
            audience,
            hello: Some(Encoded::new(&hello)),
        })
    }

    /// The next frame, as soon as there is one. Cancelling it loses none.
    pub(crate) async fn next(&mut self) -> Encoded {
        if let Some(hello) = self.hello.take() {
            return hello;
        }
        loop {
            // Marked as seen before looking: what changes meanwhile wakes it again.
            self.changed.mark_unchanged();
            let next = self.cursor.next(&self.entry.state());
            match next {
                Some(next) => return self.delivered(next),
                // The sender lives in the entry that this subscription holds.
                None => drop(self.changed.changed().await),
            }
        }
    }

    fn delivered(&mut self, next: Next) -> Encoded {
        let frame = match next {
            Next::Final(kept) => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let ms = (now.as_millis() as u64).saturating_sub(kept.written_ms);
                self.metrics.delivery.observe(ms as f64 / 1000.0);
                kept.frame.clone()
            }
            Next::Live(live) => {
                if self.live_version > 0 {
                    self.metrics
                        .skipped
                        .inc_by(live.version - self.live_version - 1);
                }
                self.live_version = live.version;
                live.frame.clone()
            }
            Next::Trending(trending) => trending.frame.clone(),
            Next::Gap(after, reason) => {
                self.metrics.gaps.inc();
                gap(after, reason)
            }
        };
        self.metrics
            .deliveries
            .with_label_values(&[frame.kind()])
            .inc();
        frame
    }
}

fn gap(after: ResultId, reason: GapReason) -> Encoded {
    Encoded::new(&Frame::Gap { after, reason })
}

/// What a subscriber is told before its connection ends: come back, but not all at once.
pub(crate) fn bye() -> Encoded {
    use rand::RngExt;
    /// A herd that was told to go comes back spread over this.
    const SPREAD_MS: std::ops::Range<u64> = 500..5_000;
    let retry_ms = rand::rng().random_range(SPREAD_MS);
    Encoded::new(&Frame::Bye { retry_ms })
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.audience.dec();
        self.entry.unsubscribed();
    }
}
