//! A subscriber's connection, as the HTTP server passes it to a shard.

use std::time::Instant;

use bytes::Bytes;
use emostream_http::DetachedConnection;

use crate::fanout::inbound::Inbound;
use crate::frame::{encoded::EncodedFrame, sse::Framing};
use crate::hub::subscriber::Subscriber;

/// A connection with the data that a shard needs to serve its subscriber.
pub(crate) struct NewConnection {
    pub(crate) detached: DetachedConnection,
    pub(crate) transport: Transport,
    pub(crate) subscriber: Subscriber,
    pub(crate) hello: EncodedFrame,
    /// Time at which the subscriber's token expires, if it does.
    pub(crate) expires_at: Option<Instant>,
}

/// The encoding of frames on the connection.
pub(crate) enum Transport {
    WebSocket(Inbound),
    Sse(Framing),
}

impl Transport {
    /// Returns the bytes of `frame` in this encoding.
    pub(super) fn encode(&self, frame: &EncodedFrame) -> Bytes {
        match self {
            Self::WebSocket(_) => frame.websocket().clone(),
            Self::Sse(framing) => frame.sse(*framing).clone(),
        }
    }
}
