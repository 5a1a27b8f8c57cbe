//! Frames as bytes: encoded once, shared by every connection that sends them. Knows no room.

pub(crate) mod encoded;
pub(crate) mod heartbeat;
pub(crate) mod sse;
pub(crate) mod websocket;
