//! A response after which the connection no longer carries HTTP: the service gets the socket.
//!
//! The takeover is in the response's extensions, as a hyper upgrade is. hyper's upgrades cannot replace it: they happen
//! only after a 101, and a stream of Server-Sent Events, which a shard writes too, is a 200.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;

use crate::DetachedConnection;

/// The callback that receives the socket.
pub(crate) type OnTakeover = Box<dyn FnOnce(DetachedConnection) + Send>;

/// The callback, in an `Arc<Mutex<Option>>` because extensions must be `Clone` and the callback is called once.
#[derive(Clone)]
struct Takeover(Arc<Mutex<Option<OnTakeover>>>);

/// Returns a response without a body: `take` receives the socket and has to write the response's head. The service sets
/// the headers that describe a body (`Content-Length`, `Transfer-Encoding`).
///
/// Only for HTTP/1; over HTTP/2, where many requests share a socket, the response ends with its head. `take` is not
/// called if the client has disconnected before. It must not block.
pub fn takeover(take: impl FnOnce(DetachedConnection) + Send + 'static) -> Response {
    // The length of a stream is unknown, so axum adds no `Content-Length: 0`.
    let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    let mut response = Response::new(body);
    let take: OnTakeover = Box::new(take);
    let takeover = Takeover(Arc::new(Mutex::new(Some(take))));
    response.extensions_mut().insert(takeover);
    response
}

/// Removes the takeover from a response that has one.
pub(crate) fn of(response: &mut Response) -> Option<OnTakeover> {
    let Takeover(take) = response.extensions_mut().remove()?;
    take.lock().unwrap_or_else(PoisonError::into_inner).take()
}
