//! Heartbeats: what a subscriber gets where nothing else was sent to it for a while.

use std::time::Duration;

use emostream_log::EventClock;
use emostream_model::Frame;

use crate::{config::Reception, frame::encoded::Encoded};

/// How long a connection may be silent, and what is sent then.
#[derive(Debug, Clone)]
pub(crate) struct Heartbeat {
    /// The longest silence.
    pub(crate) every: Duration,
    pub(crate) clock: EventClock,
}

impl Heartbeat {
    pub(crate) fn new(reception: &Reception) -> Self {
        Self {
            every: reception.heartbeat,
            clock: reception.clock.clone(),
        }
    }

    /// The frame of this moment.
    pub(crate) fn frame(&self) -> Encoded {
        Encoded::new(&Frame::Heartbeat {
            now: self.clock.unix_ms(),
        })
    }
}
