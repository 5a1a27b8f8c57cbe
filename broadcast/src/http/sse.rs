//! Responses that are streams of Server-Sent Events. Over HTTP/1 a shard writes the body, over HTTP/2 an async task.

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

/// Capacity of the channel between the subscription and the body of the response. While one frame is written, the next
/// one waits in the channel.
const PIECES: usize = 1;

/// Adds the headers of an event stream. `framing` is the framing of the body over HTTP/1; `None` over HTTP/2.
pub(super) fn with_head(mut response: Response, framing: Option<Framing>) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Without this header nginx would delay events until its buffer is full.
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

/// Returns a response over HTTP/2 whose body is a stream of events. The stream ends when the client disconnects, after
/// `bye` at shutdown, or when the token expires. In the last case a browser reconnects automatically, and receives 401.
///
/// `window` is called at shutdown, and returns the time within which the audience reconnects.
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

/// Waits until the token expires, or for ever if it does not expire.
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
