//! A response after which the connection no longer carries HTTP: the service receives the socket and owns it.
//!
//! The callback that receives the socket is in the extensions of the response, where hyper stores its upgrades, too.
//! hyper's upgrades are not used because they happen only after a 101. Streams of Server-Sent Events have the status
//! 200, and need a takeover, too, since a shard writes them.

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

/// The callback. It is in an `Arc<Mutex<Option>>`, because extensions must be `Clone` and the callback can be called
/// only once.
#[derive(Clone)]
struct Takeover(Arc<Mutex<Option<OnTakeover>>>);

/// Returns a response without a body. The connection's socket is then passed to `take`, which has to write the head of
/// the response, and owns the connection. The caller sets the headers that describe a body (`Content-Length`,
/// `Transfer-Encoding`), if the response needs them.
///
/// A takeover needs HTTP/1. Over HTTP/2 many requests share a socket, so `take` is not called and the response ends
/// with its head. `take` is not called either if the client has already disconnected. `take` must not block.
pub fn takeover(take: impl FnOnce(DetachedConnection) + Send + 'static) -> Response {
    // The length of a stream is unknown, so axum adds no `Content-Length: 0`.
    let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    let mut response = Response::new(body);
    let take: OnTakeover = Box::new(take);
    let takeover = Takeover(Arc::new(Mutex::new(Some(take))));
    response.extensions_mut().insert(takeover);
    response
}

/// Removes the takeover callback from a response and returns it; `None` if the response has none.
pub(crate) fn of(response: &mut Response) -> Option<OnTakeover> {
    let Takeover(take) = response.extensions_mut().remove()?;
    take.lock().unwrap_or_else(PoisonError::into_inner).take()
}
