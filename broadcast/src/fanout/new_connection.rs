//! A subscriber's connection on its way from the HTTP server to a shard.

use std::time::Instant;

use bytes::Bytes;
use emostream_http::Taken;

use crate::{
    fanout::inbound::Inbound,
    frame::{encoded::Encoded, sse::Framing},
    hub::subscriber::Subscriber,
};

/// What a shard needs to serve a subscriber.
pub(crate) struct Arrival {
    pub(crate) taken: Taken,
    pub(crate) speech: Speech,
    pub(crate) subscriber: Subscriber,
    pub(crate) hello: Encoded,
    /// When its token expires, if it does.
    pub(crate) until: Option<Instant>,
}

/// How frames are sent over the connection.
#[derive(Debug)]
pub(crate) enum Speech {
    WebSocket(Inbound),
    Events(Framing),
}

impl Speech {
    /// A frame as the connection sends it.
    pub(super) fn frame(&self, frame: &Encoded) -> Bytes {
        match self {
            Self::WebSocket(_) => frame.websocket().clone(),
            Self::Events(framing) => frame.sse(*framing).clone(),
        }
    }
}
