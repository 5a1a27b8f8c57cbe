//! Encoded frames: each is encoded once for all connections that send it. This layer does not depend on rooms.

pub(crate) mod encoded;
pub(crate) mod heartbeat;
pub(crate) mod sse;
pub(crate) mod websocket;
