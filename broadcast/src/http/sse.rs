//! The answer that is a stream of Server-Sent Events. Over HTTP/1 a shard writes its body, over HTTP/2 a task.

use std::{
    future::pending,
    time::{Duration, Instant},
};

use emostream_http::{Body, BodySender, Closed, Response};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use crate::fanout::goaway;
use crate::frame::{encoded::EncodedFrame, heartbeat::Heartbeat, sse::Framing};
use crate::http::subscription::Subscription;

/// Maximum pieces between the subscription and the stream: the one being written, and the next.
const PIECES: usize = 1;

/// The head of a stream of events, whose body is sent over HTTP/1 in this `framing`.
pub(super) fn response(body: Body, framing: Option<Framing>) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back to fill its buffer.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    match framing {
        Some(Framing::Chunks) => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        Some(Framing::Bare) => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        None => {}
    }
    response
}

/// Answers over HTTP/2 with a stream of events. It ends when the client disconnects, with `bye` at shutdown, or when
/// the token expires: a browser then reconnects by itself, and gets 401.
///
/// `window` returns at shutdown the time within which the audience reconnects.
pub(super) fn stream(
    subscription: Subscription,
    heartbeat: Heartbeat,
    shutdown: CancellationToken,
    expires_at: Option<Instant>,
    window: impl Fn() -> Duration + Send + 'static,
) -> Response {
    let (sender, body) = Body::channel(PIECES);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = expired(expires_at) => {}
            _ = send_frames(subscription, &sender, heartbeat, shutdown, window) => {}
        }
    });
    response(body, None)
}

/// Waits until the token expires; for ever if it does not.
async fn expired(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}

async fn send_frames(
    mut subscription: Subscription,
    sender: &BodySender,
    heartbeat: Heartbeat,
    shutdown: CancellationToken,
    window: impl Fn() -> Duration,
) -> Result<(), Closed> {
    let event = |frame: &EncodedFrame| frame.sse(Framing::Bare).clone();
    sender.send(Framing::Bare.retry().into()).await?;
    loop {
        let piece = tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                return sender.send(event(&goaway::goaway_frame(window()))).await;
            }
            frame = subscription.next() => event(&frame),
            () = tokio::time::sleep(heartbeat.every) => event(&heartbeat.frame()),
        };
        sender.send(piece).await?;
    }
}
