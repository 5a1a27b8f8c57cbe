//! What a publisher or a relay answers over HTTP.

mod assets;
mod room_api;
mod routes;
pub(crate) mod service;
mod sse;
mod subscription;
mod token;
mod websocket;
