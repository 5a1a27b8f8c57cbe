//! A subscription to a room, which reconnects by itself.
//!
//! ```text
//!   connect ──▶ frames … ──▶ lost ──backoff, or the server's bye──▶ connect with since = last final
//! ```
//!
//! A connection also counts as lost if the server sends nothing for two of its heartbeat intervals, since a network may
//! stop forwarding data without closing the connection.
//!
//! Invariant: final results are returned in order, and none is returned twice, even if the subscription reconnects.

#![allow(
    clippy::disallowed_methods,
    reason = "this module measures the duration of a connection"
)]

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_http::ClientStream;
use emostream_model::{Frame, ResultId, Room};
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, body::Incoming, header::HOST};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use super::{Endpoint, Token, problem, reason, sse::Events};

/// The protocol that transports frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    ServerSentEvents,
}

/// Backoff before the first retry. It doubles with each retry up to [`LONGEST_PAUSE`]. A random time of up to the same
/// length is added, because clients that lost their server at the same time must not reconnect at the same time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Timeout of a connection attempt. It is also the timeout of the message `hello`, which the server sends first.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection counts as lost if nothing is received for this many heartbeat intervals.
const MISSED_HEARTBEATS: u32 = 2;
/// After a connection that lasted this long, the backoff starts again with its shortest value.
const SETTLED: Duration = Duration::from_secs(5);

/// Maximum size of an error response whose `detail` is read, bytes.
const PROBLEM_BYTES: usize = 16 << 10;

/// An event that a subscription returns.
#[derive(Debug)]
pub(crate) enum SubscriptionEvent {
    /// A frame: the text that was received, and the parsed frame.
    Frame { text: String, frame: Box<Frame> },
    /// The connection is lost. The subscription reconnects after `pause`.
    Lost { why: String, pause: Duration },
}

/// The error if the server has refused the subscription, so that a retry cannot succeed. It contains the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// A subscription to a room.
pub(crate) struct Subscription {
    server: Endpoint,
    room: Room,
    transport: Transport,
    since: Option<ResultId>,
    connection: Option<Established>,
    pause: Duration,
    bye: Option<Duration>,
    resume_at: Option<Instant>,
}

struct Established {
    connection: Connection,
    since: Instant,
    /// The time at which the last bytes were received.
    last_received_at: Instant,
    /// Maximum time without received bytes, after which the connection counts as lost; `None` if the server sends no
    /// heartbeats.
    silence: Option<Duration>,
}

enum Connection {
    WebSocket(Box<WebSocketStream<ClientStream>>),
    Events(Pin<Box<Incoming>>, Events),
}

enum Lost {
    Retry(String),
    Never(String),
}

impl Subscription {
    /// Creates a subscription, which connects at the first [`Subscription::next`].
    pub(crate) fn new(server: Endpoint, room: Room, transport: Transport) -> Self {
        Self {
            server,
            room,
            transport,
            since: None,
            connection: None,
            pause: FIRST_PAUSE,
            bye: None,
            resume_at: None,
        }
    }

    /// Makes the subscription start after this final result.
    pub(crate) fn since(mut self, id: ResultId) -> Self {
        self.since = Some(id);
        self
    }

    /// Waits for the next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<SubscriptionEvent, Refused> {
        if let Some(at) = self.resume_at {
            tokio::time::sleep_until(at.into()).await;
            self.resume_at = None;
        }
        loop {
            let Some(established) = &mut self.connection else {
                match connect(&self.server, &self.room, self.transport, self.since).await {
                    Ok(connection) => self.connection = Some(Established::new(connection)),
                    Err(lost) => return self.lost(lost),
                }
                continue;
            };
            match established.message().await {
                Ok(None) => {}
                Ok(Some(text)) => match serde_json::from_str(&text) {
                    Ok(frame) if self.is_new(&frame) => {
                        let frame = Box::new(frame);
                        return Ok(SubscriptionEvent::Frame { text, frame });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let why = format!("the server sent an invalid frame ({error}): {text}");
                        return self.lost(Lost::Retry(why));
                    }
                },
                Err(lost) => return self.lost(lost),
            }
        }
    }

    /// Stores the values of the frame that a reconnection needs: the id of the last final result, the heartbeat
    /// interval, and the time of a `bye`. Returns `false` if the frame is a final result that was already returned.
    fn is_new(&mut self, frame: &Frame) -> bool {
        match frame {
            Frame::Final { id, .. } => {
                if self.since.is_some_and(|since| id.is_up_to(since)) {
                    return false;
                }
                self.since = Some(*id);
            }
            Frame::Hello { heartbeat_ms, .. } => {
                if let Some(established) = &mut self.connection {
                    established.expect_heartbeats(*heartbeat_ms);
                }
            }
            Frame::Bye { retry_ms } => self.bye = Some(Duration::from_millis(*retry_ms)),
            _ => {}
        }
        true
    }

    fn lost(&mut self, lost: Lost) -> Result<SubscriptionEvent, Refused> {
        let connected = self.connection.take();
        if connected.is_some_and(|established| established.since.elapsed() >= SETTLED) {
            self.pause = FIRST_PAUSE;
        }
        match lost {
            Lost::Never(why) => Err(Refused(why)),
            Lost::Retry(why) => {
                let pause = self.bye.take().unwrap_or(self.pause);
                let pause = pause.mul_f64(1.0 + rand::random::<f64>());
                self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                self.resume_at = Some(Instant::now() + pause);
                Ok(SubscriptionEvent::Lost { why, pause })
            }
        }
    }
}

async fn connect(
    server: &Endpoint,
    room: &Room,
    transport: Transport,
    since: Option<ResultId>,
) -> Result<Connection, Lost> {
    // `observer=true`: the server must not count the subscriptions of this program as audience, since it is a tool.
    let since = since.map_or(String::new(), |id| format!("&since={id}"));
    let query = format!("?observer=true{since}");
    let connecting = async {
        match transport {
            Transport::WebSocket => websocket(server, &format!("/v1/rooms/{room}/ws{query}")).await,
            Transport::ServerSentEvents => {
                events(server, &format!("/v1/rooms/{room}/events{query}")).await
            }
        }
    };
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(Lost::Retry(format!("no response from {server}"))),
    }
}

fn retry(error: impl std::error::Error) -> Lost {
    Lost::Retry(reason(&error))
}

async fn websocket(server: &Endpoint, path: &str) -> Result<Connection, Lost> {
    let url = server.server().websocket_url(path);
    let mut request = url.into_client_request().map_err(retry)?;
    Token::sign(server.token(), request.headers_mut());
    let stream = server.connect().await.map_err(retry)?;
    match client_async(request, stream).await {
        Ok((stream, _)) => Ok(Connection::WebSocket(Box::new(stream))),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(status(response.status(), body))
        }
        Err(error) => Err(retry(error)),
    }
}

async fn events(server: &Endpoint, path: &str) -> Result<Connection, Lost> {
    let stream = server.connect().await.map_err(retry)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(retry)?;
    // The task ends with the connection. We ignore its error, because the body of the response returns the same error.
    tokio::spawn(connection);
    let mut request = Request::get(path)
        .header(HOST, server.server().authority())
        .header("accept", "text/event-stream")
        .body(Empty::<Bytes>::new())
        .map_err(retry)?;
    Token::sign(server.token(), request.headers_mut());
    let response = sender.send_request(request).await.map_err(retry)?;
    if !response.status().is_success() {
        let refusal = response.status();
        let body = Limited::new(response.into_body(), PROBLEM_BYTES)
            .collect()
            .await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(status(refusal, &body));
    }
    let body = Box::pin(response.into_body());
    Ok(Connection::Events(body, Events::default()))
}

/// Converts an error response to an error. A server that is full or is starting sends 5xx or 429, and a retry can
/// succeed after these, but not after other errors. If `body` is a problem (RFC 9457), the error contains its `detail`.
fn status(status: StatusCode, body: &[u8]) -> Lost {
    let why = match problem::detail(body) {
        Some(detail) => format!("the server responded with {status}: {detail}"),
        None => format!("the server responded with {status}"),
    };
    match status {
        StatusCode::UNAUTHORIZED => Lost::Never(format!(
            "{why}; set --token-file to a file with a valid token"
        )),
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Lost::Retry(why)
        }
        _ => Lost::Never(why),
    }
}

impl Established {
    fn new(connection: Connection) -> Self {
        let now = Instant::now();
        Self {
            connection,
            since: now,
            last_received_at: now,
            silence: Some(CONNECT_LIMIT),
        }
    }

    fn expect_heartbeats(&mut self, heartbeat_ms: u64) {
        let heartbeat = Some(Duration::from_millis(heartbeat_ms)).filter(|each| !each.is_zero());
        self.silence = heartbeat.map(|each| each.saturating_mul(MISSED_HEARTBEATS));
    }

    /// Waits for a message as [`Connection::message`] does. The connection counts as lost if no bytes come for
    /// `silence`.
    async fn message(&mut self) -> Result<Option<String>, Lost> {
        let message = self.connection.message();
        let until = self
            .silence
            .and_then(|silence| self.last_received_at.checked_add(silence));
        let message = match until {
            // `timeout_at` polls the message before it checks the time. So if this process was stopped for a while,
            // bytes that arrived during the stop are read, and the connection does not count as lost.
            Some(until) => match tokio::time::timeout_at(until.into(), message).await {
                Ok(message) => message,
                Err(_) => {
                    let silent = self.last_received_at.elapsed().as_secs();
                    let why = format!("no heartbeat from the server for {silent} s");
                    return Err(Lost::Retry(why));
                }
            },
            None => message.await,
        };
        self.last_received_at = Instant::now();
        message
    }
}

impl Connection {
    /// Returns the next message; `None` if the received bytes complete no message, for example a ping.
    async fn message(&mut self) -> Result<Option<String>, Lost> {
        match self {
            Self::WebSocket(stream) => match stream.next().await {
                Some(Ok(Message::Text(text))) => Ok(Some(text.to_string())),
                Some(Ok(Message::Close(close))) => Err(closed(close.as_ref())),
                Some(Ok(_)) => Ok(None),
                Some(Err(error)) => Err(Lost::Retry(error.to_string())),
                None => Err(Lost::Retry("the connection ended".to_owned())),
            },
            Self::Events(body, events) => {
                if let Some(data) = events.next() {
                    return Ok(Some(data));
                }
                match body.frame().await {
                    Some(Ok(frame)) => {
                        let bytes = frame.into_data().unwrap_or_default();
                        events.feed(&bytes).map_err(Lost::Retry)?;
                        Ok(events.next())
                    }
                    Some(Err(error)) => Err(Lost::Retry(error.to_string())),
                    None => Err(Lost::Retry("the connection ended".to_owned())),
                }
            }
        }
    }
}

/// Converts a close of the WebSocket. A retry cannot succeed after the close codes 3500 to 3999, but can after all
/// others (docs/reference/stream-protocol.md).
fn closed(close: Option<&CloseFrame>) -> Lost {
    let Some(CloseFrame { code, reason }) = close else {
        return Lost::Retry("the server closed".to_owned());
    };
    let code = u16::from(*code);
    let why = match reason.is_empty() {
        true => format!("the server closed the connection with code {code}"),
        false => format!("the server closed the connection with code {code}: {reason}"),
    };
    match code {
        3500..=3999 => Lost::Never(why),
        _ => Lost::Retry(why),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use futures_util::SinkExt;
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::handshake::server::{ErrorResponse, Request, Response},
    };

    fn a_final(offset: u64) -> String {
        let frame = json!({
            "type": "final", "id": format!("0-{offset}"), "room": "a", "start": 0, "end": 2000,
            "emitted_at": 0, "total": 0, "counts": [], "totals": [],
        });
        frame.to_string()
    }

    /// Accepts one connection, sends a final result for each of `offsets`, and closes. Returns the URI that was
    /// requested.
    async fn serve_once(listener: &TcpListener, offsets: &[u64]) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut requested = String::new();
        #[allow(clippy::result_large_err, reason = "tungstenite's signature")]
        let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            requested = request.uri().to_string();
            Ok(response)
        };
        let mut socket = accept_hdr_async(stream, note).await.unwrap();
        for offset in offsets {
            socket.send(Message::text(a_final(*offset))).await.unwrap();
        }
        socket.close(None).await.unwrap();
        requested
    }

    #[tokio::test]
    async fn finals_come_in_order_and_once_across_a_reconnect() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Endpoint::in_the_clear(listener.local_addr().unwrap());
        let room = Room::new("a").unwrap();
        let mut subscription = Subscription::new(server, room, Transport::WebSocket);
        let serving = tokio::spawn(async move {
            let first = serve_once(&listener, &[1, 2]).await;
            let second = serve_once(&listener, &[2, 3]).await;
            (first, second)
        });
        let (mut offsets, mut lost) = (Vec::new(), 0);
        while offsets.len() < 3 {
            match subscription.next().await.unwrap() {
                SubscriptionEvent::Frame { frame, .. } => match *frame {
                    Frame::Final { id, .. } => offsets.push(id.offset),
                    other => panic!("{other:?}"),
                },
                SubscriptionEvent::Lost { .. } => lost += 1,
            }
        }
        assert_eq!(offsets, [1, 2, 3]);
        assert_eq!(lost, 1);
        let (first, second) = serving.await.unwrap();
        assert_eq!(first, "/v1/rooms/a/ws?observer=true");
        assert_eq!(second, "/v1/rooms/a/ws?observer=true&since=0-2");
    }

    #[tokio::test]
    async fn a_refusal_has_the_detail_of_the_response() {
        const PROBLEM: &str =
            r#"{"status":403,"detail":"the token does not give access to room a"}"#;
        for transport in [Transport::WebSocket, Transport::ServerSentEvents] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = Endpoint::in_the_clear(listener.local_addr().unwrap());
            let room = Room::new("a").unwrap();
            let mut subscription = Subscription::new(server, room, transport);
            let serving = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut head, mut piece) = (Vec::new(), [0; 1024]);
                while !head.ends_with(b"\r\n\r\n") {
                    let length = stream.read(&mut piece).await.unwrap();
                    head.extend(&piece[..length]);
                }
                let length = PROBLEM.len();
                let answer =
                    format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {length}\r\n\r\n{PROBLEM}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream
            });
            let Refused(why) = subscription.next().await.unwrap_err();
            assert_eq!(
                why,
                "the server responded with 403 Forbidden: the token does not give access to room a"
            );
            drop(serving.await.unwrap());
        }
    }

    #[test]
    fn a_close_code_decides_whether_to_reconnect() {
        for (code, comes_back) in [
            (None, true),
            (Some(1001), true),
            (Some(3000), true),
            (Some(3500), false),
        ] {
            let close = code.map(|code: u16| CloseFrame {
                code: code.into(),
                reason: "".into(),
            });
            assert_eq!(
                matches!(closed(close.as_ref()), Lost::Retry(_)),
                comes_back,
                "{code:?}"
            );
        }
    }
}
