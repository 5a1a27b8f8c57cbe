//! A subscriber of a room, over any transport.

use std::sync::Arc;

use emostream_model::{Frame, ResultId, Room};
use prometheus::IntGauge;

use crate::frame::{encoded::EncodedFrame, heartbeat::Heartbeat};
use crate::hub::{
    entry::{Attendance, RoomEntry},
    rooms::Hub,
};
use crate::metrics::Metrics;
use crate::room::cursor::Cursor;

/// A subscriber, which has a cursor and no queue. It is counted in the audience until it is dropped.
pub(crate) struct Subscriber {
    pub(crate) entry: Arc<RoomEntry>,
    pub(crate) cursor: Cursor,
    /// The room's newest final result when the subscriber joined.
    pub(crate) found: Option<ResultId>,
    /// Whether new counts reach this node, as the subscriber was last notified.
    pub(crate) counting: bool,
    attendance: Attendance,
    connections: IntGauge,
}

impl Subscriber {
    /// Subscribes to `room`. If `since` is given, the subscriber resumes after the final result with this id. Returns
    /// the subscriber and its first frame, or `None` if there are too many idle rooms.
    pub(crate) fn join(
        hub: &Hub,
        room: &Room,
        attendance: Attendance,
        since: Option<ResultId>,
        heartbeat: &Heartbeat,
        metrics: &Metrics,
        transport: &str,
    ) -> Option<(Self, EncodedFrame)> {
        let entry = hub.subscribe(room, attendance)?;
        let connections = metrics.subscribers.with_label_values(&[transport]);
        connections.inc();
        let ((cursor, resumed), found) = {
            let read = since.map(|id| (id, hub.offsets.range(id.partition)));
            let room = entry.state();
            let cursor = match read {
                Some((id, read)) => Cursor::resume(&room, id, &read),
                None => (Cursor::join(&room), false),
            };
            (cursor, room.newest().map(|newest| newest.id))
        };
        let settings = hub.window_settings();
        let counting = heartbeat.is_counting();
        let hello = Frame::Hello {
            room: room.clone(),
            now: heartbeat.clock.unix_ms(),
            heartbeat_ms: heartbeat.every.as_millis() as u64,
            latest: found,
            window_ms: settings.window_ms,
            live_ms: settings.live_ms,
            swarm_size: settings.swarm_size,
            resumed,
            counting,
        };
        let subscriber = Self {
            entry,
            cursor,
            found,
            counting,
            attendance,
            connections,
        };
        Some((subscriber, EncodedFrame::new(&hello)))
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.connections.dec();
        self.entry.unsubscribed(self.attendance);
    }
}
