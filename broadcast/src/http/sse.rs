//! Server-Sent Events (WHATWG HTML, "Server-sent events"): how the stream is framed, and its way over
//! HTTP/2. Over HTTP/1 a shard writes it.

use std::time::Duration;

use bytes::Bytes;
use emostream_http::{Body, BodySender, Closed, Response};
use hyper::{
    Version,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

use crate::{
    fanout::goaway,
    frame::{encoded::Encoded, heartbeat::Heartbeat},
    http::{
        stay::{Over, Stay},
        subscription::Subscription,
    },
};

/// A browser waits two seconds before it reconnects by itself.
const RETRY: &str = "retry: 2000\n\n";

/// What ends a chunk (RFC 9112, 7.1).
pub(crate) const CHUNK_END: &str = "\r\n";

/// Pieces between the subscriber and its stream: the one being written, and the next.
const PIECES: usize = 1;

/// A piece as a chunk of HTTP/1.1.
pub(crate) fn chunk(piece: &str) -> String {
    format!("{:x}\r\n{piece}{CHUNK_END}", piece.len())
}

/// How the stream goes over HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// In chunks, the last of which is empty: HTTP/1.1.
    Chunks,
    /// As it is, until the connection ends: HTTP/1.0, which nginx speaks to what is behind it.
    Bare,
}

impl Framing {
    /// As a client of `version` expects it; `None` of HTTP/2, which frames by itself.
    pub(crate) fn of(version: Version) -> Option<Self> {
        match version {
            Version::HTTP_11 => Some(Self::Chunks),
            Version::HTTP_10 | Version::HTTP_09 => Some(Self::Bare),
            _ => None,
        }
    }

    /// A frame as it goes out.
    pub(crate) fn frame(self, frame: &Encoded) -> Bytes {
        match self {
            Self::Chunks => frame.chunk().clone(),
            Self::Bare => frame.event().clone(),
        }
    }

    /// What comes first.
    pub(crate) fn retry(self) -> String {
        self.piece(RETRY)
    }

    /// The end.
    pub(crate) fn end(self) -> &'static [u8] {
        match self {
            Self::Chunks => b"0\r\n\r\n",
            Self::Bare => b"",
        }
    }

    fn piece(self, piece: &str) -> String {
        match self {
            Self::Chunks => chunk(piece),
            Self::Bare => piece.to_owned(),
        }
    }
}

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
    sender.send(Bytes::from_static(RETRY.as_bytes())).await?;
    loop {
        let piece = tokio::select! {
            biased;
            over = stay.over() => return match over {
                Over::Farewell => sender.send(goaway::bye(spread()).event().clone()).await,
                Over::Expired => Ok(()),
            },
            frame = subscription.next() => frame.event().clone(),
            () = tokio::time::sleep(heartbeat.every) => heartbeat.frame().event().clone(),
        };
        sender.send(piece).await?;
    }
}
