//! A subscriber's place in a room, whatever it is connected by.

use std::sync::Arc;

use emostream_model::{Frame, ResultId, Room};
use prometheus::IntGauge;

use crate::{
    cursor::Cursor,
    encoded::Encoded,
    hub::{Entry, Hub},
    metrics::Metrics,
};

/// One subscriber. It holds a cursor, no frames: what it does not take is not kept for it. It is counted
/// until it is dropped.
pub(crate) struct Subscriber {
    pub(crate) entry: Arc<Entry>,
    pub(crate) cursor: Cursor,
    audience: IntGauge,
}

impl Subscriber {
    /// Joins `room`, behind `since` if that is given; and what it is told first. `None` when there are too
    /// many rooms.
    pub(crate) fn join(
        hub: &Hub,
        room: &Room,
        since: Option<ResultId>,
        metrics: &Metrics,
        transport: &str,
    ) -> Option<(Self, Encoded)> {
        let entry = hub.join(room)?;
        let audience = metrics.subscribers.with_label_values(&[transport]);
        audience.inc();
        let (cursor, resumed) = match since {
            Some(id) => Cursor::resume(&entry.state(), id, &hub.read(id.partition)),
            None => (Cursor::join(&entry.state()), false),
        };
        let shape = hub.shape();
        let hello = Frame::Hello {
            room: room.clone(),
            window_ms: shape.window_ms,
            live_ms: shape.live_ms,
            swarm_size: shape.swarm_size,
            resumed,
        };
        let subscriber = Self {
            entry,
            cursor,
            audience,
        };
        Some((subscriber, Encoded::new(&hello)))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.audience.dec();
        self.entry.unsubscribed();
    }
}
