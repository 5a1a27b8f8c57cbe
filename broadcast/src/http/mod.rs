//! The HTTP interface of a publisher or a relay.

mod assets;
mod parameters;
mod room_api;
pub(crate) mod service;
mod sse;
mod subscription;
mod token;
mod websocket;
