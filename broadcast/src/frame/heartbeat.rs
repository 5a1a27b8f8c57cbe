//! Heartbeats: sent to a subscriber to which nothing else was sent for a while.

use std::time::Duration;

use emostream_log::EventClock;
use emostream_model::Frame;

use crate::config::SubscriberConfig;
use crate::frame::encoded::EncodedFrame;

/// The maximum silence of a connection, and the frame that is sent after it.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    /// Maximum time without a frame.
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
