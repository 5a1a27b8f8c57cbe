//! A subscription to a room that outlives its connections.
//!
//! ```text
//!   connect ──▶ frames … ──▶ lost ──backoff, or the server's bye──▶ connect with since = last final
//! ```
//!
//! A connection on which nothing comes for two of the server's heartbeats is lost, too: a network may stop
//! forwarding without closing anything.
//!
//! Invariant: finals come in order and once, whatever happened to the connection in between.

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

/// How frames come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    ServerSentEvents,
}

/// The pause before the first retry, doubled up to the longest, plus up to as much again at random:
/// a crowd that lost its server does not come back as one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection attempt that takes longer, or whose `hello` does, has failed.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// So many heartbeats that did not come mean that the connection is dead.
const MISSED_HEARTBEATS: u32 = 2;
/// A connection that lived this long resets the pause.
const SETTLED: Duration = Duration::from_secs(5);

/// The longest refusal that is read for its sentence.
const PROBLEM_BYTES: usize = 16 << 10;

/// What a subscription has to tell.
#[derive(Debug)]
pub(crate) enum News {
    /// A message, as it was sent and as it is understood.
    Frame { text: String, frame: Box<Frame> },
    /// The connection is lost; the next one is tried after `pause`.
    Lost { why: String, pause: Duration },
}

/// The server said that coming back is no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// See the module.
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
    /// When the last bytes of the server came.
    heard: Instant,
    /// The longest that it may be silent; `None` for a server that sends no heartbeats.
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
    /// Nothing happens before the first [`Subscription::next`].
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

    /// Begins behind this final.
    pub(crate) fn since(mut self, id: ResultId) -> Self {
        self.since = Some(id);
        self
    }

    /// What happens next. May be dropped while it waits; nothing is lost by that.
    pub(crate) async fn next(&mut self) -> Result<News, Refused> {
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
                    Ok(frame) if self.is_news(&frame) => {
                        let frame = Box::new(frame);
                        return Ok(News::Frame { text, frame });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let why = format!("the server sent what is no frame ({error}): {text}");
                        return self.lost(Lost::Retry(why));
                    }
                },
                Err(lost) => return self.lost(lost),
            }
        }
    }

    /// Notes what a frame says about resuming; whether it is new.
    fn is_news(&mut self, frame: &Frame) -> bool {
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

    fn lost(&mut self, lost: Lost) -> Result<News, Refused> {
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
                Ok(News::Lost { why, pause })
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
    // Whatever this program subscribes for, it is a tool and not a part of the audience.
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
        Err(_) => Err(Lost::Retry(format!("{server} does not answer"))),
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
            let said = response.body().as_deref().unwrap_or_default();
            Err(status(response.status(), said))
        }
        Err(error) => Err(retry(error)),
    }
}

async fn events(server: &Endpoint, path: &str) -> Result<Connection, Lost> {
    let stream = server.connect().await.map_err(retry)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(retry)?;
    // It ends with the connection; what it says then is seen by the body.
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
        let said = Limited::new(response.into_body(), PROBLEM_BYTES)
            .collect()
            .await;
        let said = said.map(|body| body.to_bytes()).unwrap_or_default();
        return Err(status(refusal, &said));
    }
    let body = Box::pin(response.into_body());
    Ok(Connection::Events(body, Events::default()))
}

/// A server that is full or starting may say 503; any other refusal stays one. `said` is the answer's body: a
/// problem (RFC 9457) has a sentence in it.
fn status(status: StatusCode, said: &[u8]) -> Lost {
    let why = match problem::sentence(said) {
        Some(sentence) => format!("the server answered {status}: {sentence}"),
        None => format!("the server answered {status}"),
    };
    match status {
        StatusCode::UNAUTHORIZED => {
            Lost::Never(format!("{why}; --token-file takes one that is good"))
        }
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
            heard: now,
            silence: Some(CONNECT_LIMIT),
        }
    }

    fn expect_heartbeats(&mut self, heartbeat_ms: u64) {
        let heartbeat = Some(Duration::from_millis(heartbeat_ms)).filter(|each| !each.is_zero());
        self.silence = heartbeat.map(|each| each.saturating_mul(MISSED_HEARTBEATS));
    }

    /// The same as [`Connection::message`], but a silence that is too long loses the connection.
    async fn message(&mut self) -> Result<Option<String>, Lost> {
        let message = self.connection.message();
        let until = self
            .silence
            .and_then(|silence| self.heard.checked_add(silence));
        let message = match until {
            // What has come already is read first, also after this process stood still.
            Some(until) => match tokio::time::timeout_at(until.into(), message).await {
                Ok(message) => message,
                Err(_) => {
                    let silent = self.heard.elapsed().as_secs();
                    let why = format!("nothing came from the server for {silent} s");
                    return Err(Lost::Retry(why));
                }
            },
            None => message.await,
        };
        self.heard = Instant::now();
        message
    }
}

impl Connection {
    /// The next message; `None` for what is none (a ping).
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

/// What to do after a close: reconnect after codes 3000 to 3499, but not after 3500 to 3999 (README.md, "Receive the
/// crowd").
fn closed(close: Option<&CloseFrame>) -> Lost {
    let Some(CloseFrame { code, reason }) = close else {
        return Lost::Retry("the server closed".to_owned());
    };
    let code = u16::from(*code);
    let why = match reason.is_empty() {
        true => format!("the server closed with {code}"),
        false => format!("the server closed with {code}: {reason}"),
    };
    match code {
        3500..=3999 => Lost::Never(why),
        _ => Lost::Retry(why),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
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

    /// Accepts one connection, sends `offsets`, closes, and tells what the client asked for.
    async fn serve_once(listener: &TcpListener, offsets: &[u64]) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut asked = String::new();
        #[allow(clippy::result_large_err, reason = "tungstenite's signature")]
        let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            asked = request.uri().to_string();
            Ok(response)
        };
        let mut socket = accept_hdr_async(stream, note).await.unwrap();
        for offset in offsets {
            socket.send(Message::text(a_final(*offset))).await.unwrap();
        }
        socket.close(None).await.unwrap();
        asked
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
                News::Frame { frame, .. } => match *frame {
                    Frame::Final { id, .. } => offsets.push(id.offset),
                    other => panic!("{other:?}"),
                },
                News::Lost { .. } => lost += 1,
            }
        }
        assert_eq!(offsets, [1, 2, 3]);
        assert_eq!(lost, 1);
        let (first, second) = serving.await.unwrap();
        assert_eq!(first, "/v1/rooms/a/ws?observer=true");
        assert_eq!(second, "/v1/rooms/a/ws?observer=true&since=0-2");
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_sentence() {
        const PROBLEM: &str = r#"{"status":403,"detail":"the token does not open the room a"}"#;
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
                "the server answered 403 Forbidden: the token does not open the room a"
            );
            drop(serving.await.unwrap());
        }
    }

    #[test]
    fn a_close_code_says_whether_coming_back_is_of_use() {
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
