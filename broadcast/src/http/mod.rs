//! What a publisher or a relay answers over HTTP.

pub(crate) mod assets;
pub(crate) mod room_api;
pub(crate) mod routes;
pub(crate) mod sse;
pub(crate) mod stay;
pub(crate) mod subscription;
pub(crate) mod token;
pub(crate) mod websocket;
