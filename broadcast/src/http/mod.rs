//! What a publisher or a relay answers over HTTP.

mod assets;
mod parameters;
mod room_api;
pub(crate) mod service;
mod sse;
mod subscription;
mod token;
mod websocket;
