//! The answer that is a stream of Server-Sent Events. Over HTTP/1 a shard writes its body, over HTTP/2 a task.

use std::time::Duration;

use emostream_http::{Body, BodySender, Closed, Response};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING,
};

use crate::{
    fanout::goaway,
    frame::{heartbeat::Heartbeat, sse::Framing},
    http::subscription::{Over, Stay, Subscription},
};

/// Pieces between the subscriber and its stream: the one being written, and the next.
const PIECES: usize = 1;

/// The head of a stream of events, whose body goes over HTTP/1 as `framing` says.
pub(crate) fn response(body: Body, framing: Option<Framing>) -> Response {
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

/// Answers over HTTP/2 with a stream of events that ends with the client, with `bye` at the farewell, or
/// when the token expires: a browser then comes back by itself, and is told 401.
///
/// `spread` says at the farewell over how long the audience comes back.
pub(crate) fn stream(
    subscription: Subscription,
    heartbeat: Heartbeat,
    stay: Stay,
    spread: impl Fn() -> Duration + Send + 'static,
) -> Response {
    let (sender, body) = Body::channel(PIECES);
    tokio::spawn(async move {
        tokio::select! {
            // The client has gone.
            () = sender.closed() => {}
            _ = feed(subscription, &sender, heartbeat, stay, spread) => {}
        }
    });
    response(body, None)
}

async fn feed(
    mut subscription: Subscription,
    sender: &BodySender,
    heartbeat: Heartbeat,
    stay: Stay,
    spread: impl Fn() -> Duration,
) -> Result<(), Closed> {
    sender.send(Framing::Bare.retry().into()).await?;
    loop {
        let piece = tokio::select! {
            biased;
            over = stay.over() => return match over {
                Over::Farewell => sender.send(goaway::goaway_frame(spread()).sse(Framing::Bare).clone()).await,
                Over::Expired => Ok(()),
            },
            frame = subscription.next() => frame.sse(Framing::Bare).clone(),
            () = tokio::time::sleep(heartbeat.every) => heartbeat.frame().sse(Framing::Bare).clone(),
        };
        sender.send(piece).await?;
    }
}
