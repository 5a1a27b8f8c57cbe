//! A subscriber's connection on its way from the HTTP server to a shard.

use std::time::Instant;

use bytes::Bytes;
use emostream_http::DetachedConnection;

use crate::fanout::inbound::Inbound;
use crate::frame::{encoded::EncodedFrame, sse::Framing};
use crate::hub::subscriber::Subscriber;

/// What a shard needs to serve a subscriber.
pub(crate) struct NewConnection {
    pub(crate) detached: DetachedConnection,
    pub(crate) transport: Transport,
    pub(crate) subscriber: Subscriber,
    pub(crate) hello: EncodedFrame,
    /// When its token expires, if it does.
    pub(crate) expires_at: Option<Instant>,
}

/// How frames are sent over the connection.
pub(crate) enum Transport {
    WebSocket(Inbound),
    Sse(Framing),
}

impl Transport {
    /// The bytes that send `frame`.
    pub(super) fn encode(&self, frame: &EncodedFrame) -> Bytes {
        match self {
            Self::WebSocket(_) => frame.websocket().clone(),
            Self::Sse(framing) => frame.sse(*framing).clone(),
        }
    }
}
