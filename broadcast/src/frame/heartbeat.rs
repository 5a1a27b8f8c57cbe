//! Heartbeats: frames that the server sends to a subscriber if it has sent no other frame for a while.

use std::time::Duration;

use emostream_log::EventClock;
use emostream_model::Frame;

use crate::config::SubscriberConfig;
use crate::frame::encoded::EncodedFrame;

/// The interval of heartbeats, and the clock whose time they contain.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    /// Maximum time without a frame on a connection.
    pub(crate) every: Duration,
    pub(crate) clock: EventClock,
}

impl Heartbeat {
    pub(crate) fn new(config: &SubscriberConfig) -> Self {
        Self {
            every: config.heartbeat,
            clock: config.clock.clone(),
        }
    }

    /// Encodes a heartbeat with the current time.
    pub(crate) fn frame(&self) -> EncodedFrame {
        EncodedFrame::new(&Frame::Heartbeat {
            now: self.clock.unix_ms(),
        })
    }
}
