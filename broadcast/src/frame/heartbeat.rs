//! Heartbeats: frames that the server sends to a subscriber if it has sent no other frame for a while.

use std::time::Duration;

use emostream_log::EventClock;
use emostream_model::Frame;
use tokio::sync::watch;

use crate::config::SubscriberConfig;
use crate::frame::encoded::EncodedFrame;

/// The interval of heartbeats, and what they contain.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    /// Maximum time without a frame on a connection.
    pub(crate) every: Duration,
    pub(crate) clock: EventClock,
    /// Whether new counts reach this node.
    pub(crate) counting: watch::Sender<bool>,
}

impl Heartbeat {
    pub(crate) fn new(config: &SubscriberConfig, counting: &watch::Sender<bool>) -> Self {
        Self {
            every: config.heartbeat,
            clock: config.clock.clone(),
            counting: counting.clone(),
        }
    }

    /// Returns whether new counts reach this node.
    pub(crate) fn is_counting(&self) -> bool {
        *self.counting.borrow()
    }

    /// Encodes a heartbeat with the current time.
    pub(crate) fn frame(&self, counting: bool) -> EncodedFrame {
        EncodedFrame::new(&Frame::Heartbeat {
            now: self.clock.unix_ms(),
            counting,
        })
    }
}
