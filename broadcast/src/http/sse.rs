//! The answer that is a stream of Server-Sent Events. Over HTTP/1 a shard writes its body, over HTTP/2 a task.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, Instant},
};

use axum::body::Body;
use bytes::Bytes;
use emostream_http::Response;
use futures_util::stream;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use tokio::{
    sync::mpsc::{self, error::SendError},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use crate::fanout::goaway;
use crate::frame::{encoded::EncodedFrame, heartbeat::Heartbeat, sse::Framing};
use crate::http::subscription::Subscription;

/// Maximum pieces between the subscription and the stream: the one being written, and the next.
const PIECES: usize = 1;

/// Adds the head of a stream of events, whose body is sent over HTTP/1 in this `framing`.
pub(super) fn with_head(mut response: Response, framing: Option<Framing>) -> Response {
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
    let (sender, mut pieces) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = expired(expires_at) => {}
            _ = send_frames(subscription, &sender, heartbeat, shutdown, window) => {}
        }
    });
    let frames = stream::poll_fn(move |cx| {
        let piece = pieces.poll_recv(cx);
        piece.map(|piece| piece.map(Ok::<Bytes, Infallible>))
    });
    with_head(Response::new(Body::from_stream(frames)), None)
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
    sender: &mpsc::Sender<Bytes>,
    heartbeat: Heartbeat,
    shutdown: CancellationToken,
    window: impl Fn() -> Duration,
) -> Result<(), SendError<Bytes>> {
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
