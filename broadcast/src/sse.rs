//! Server-Sent Events (WHATWG HTML, "Server-sent events").

use std::time::Duration;

use bytes::Bytes;
use emostream_http::{Body, BodySender, Closed, Response};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};

use crate::{
    stay::{Over, Stay},
    subscription::{Subscription, bye},
};

/// Proxies end streams that are silent for longer, 30 or 60 s mostly.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a browser waits before it reconnects by itself.
const RETRY_MS: u64 = 2000;

/// Pieces between the subscriber and its socket: the one being written, and the next.
const PIECES: usize = 1;

/// Answers with a stream of events that ends with the client, with `bye` at the farewell, or when the
/// token expires: a browser then comes back by itself, and is told 401.
pub(crate) fn answer(subscription: Subscription, stay: Stay) -> Response {
    let (sender, body) = Body::channel(PIECES);
    tokio::spawn(async move {
        tokio::select! {
            // The client has gone.
            () = sender.closed() => {}
            _ = feed(subscription, &sender, stay) => {}
        }
    });
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold events back to fill its buffer.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

async fn feed(
    mut subscription: Subscription,
    sender: &BodySender,
    stay: Stay,
) -> Result<(), Closed> {
    sender
        .send(Bytes::from(format!("retry: {RETRY_MS}\n\n")))
        .await?;
    loop {
        let piece = tokio::select! {
            biased;
            over = stay.over() => return match over {
                Over::Farewell => sender.send(bye().event().clone()).await,
                Over::Expired => Ok(()),
            },
            frame = subscription.next() => frame.event().clone(),
            () = tokio::time::sleep(HEARTBEAT) => Bytes::from_static(b": here\n\n"),
        };
        sender.send(piece).await?;
    }
}
