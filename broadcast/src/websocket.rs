//! WebSocket (RFC 6455): the handshake, and a connection that mostly sends.

use std::time::Duration;

use bytes::Bytes;
use emostream_http::{Body, Problem, Request, Response, Socket, upgraded_socket};
use futures_util::{SinkExt, StreamExt};
use hyper::{
    Method, StatusCode,
    header::{
        CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
    upgrade::OnUpgrade,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{
    Error, Message,
    error::CapacityError,
    handshake::derive_accept_key,
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
};

use crate::{
    stay::{Over, Stay},
    subscription::{Subscription, bye},
    token,
};

/// How often a silent client is asked whether it lives.
const PING_EVERY: Duration = Duration::from_secs(15);
/// A client that has said nothing for so long, not even pong, is gone.
const DEAD_AFTER: Duration = Duration::from_secs(30);
/// A send that took longer than this has waited for the client to read, and it did: it lives, however
/// late its pongs are, which come behind all that it has yet to read.
const WAITED: Duration = Duration::from_millis(100);
/// How long a client may take to answer the closing handshake.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// What a client may send: control frames, and nothing else that is long.
const MESSAGE_BYTES: usize = 4096;
/// Reading is rare and short; tungstenite's default is 128 KiB a connection.
const READ_BUFFER_BYTES: usize = 512;
/// What may wait for the client to read: the frame being sent, a few KB at most, and answers to pings.
/// Who pings on and on but reads nothing would otherwise have them all kept.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// "Reconnect": INTERFACE has 3000–3499 for it.
const CLOSE_RECONNECT: u16 = 3001;
/// "Do not reconnect", at least not with this token: INTERFACE has 3500–3999 for it.
const CLOSE_EXPIRED: u16 = 3500;

/// What a valid handshake answers with, and what the connection becomes.
pub(crate) struct Handshake {
    pub(crate) response: Response,
    pub(crate) upgrade: OnUpgrade,
}

/// Checks a handshake (RFC 6455, section 4.2.1).
pub(crate) fn handshake(request: &mut Request) -> Result<Handshake, Problem> {
    let headers = request.headers();
    let has = |name: HeaderName, token: &str| {
        let values = headers
            .get_all(name)
            .into_iter()
            .filter_map(|v| v.to_str().ok());
        values
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    if request.method() != Method::GET || !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade")
    {
        let detail =
            "this is a WebSocket: connect with ws://, or use …/events for Server-Sent Events";
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, detail)
            .header(UPGRADE, HeaderValue::from_static("websocket")));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is spoken here",
        )
        .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
    }
    let accept = accept(headers)?;
    let subprotocol = token::subprotocol(headers);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer.extend(subprotocol.map(|spoken| (SEC_WEBSOCKET_PROTOCOL, spoken)));
    let upgrade = hyper::upgrade::on(request);
    Ok(Handshake { response, upgrade })
}

fn accept(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let bad = || Problem::bad_request("Sec-WebSocket-Key is 16 bytes in base64");
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(bad)?.as_bytes();
    // 16 bytes are 22 digits and two of padding.
    let digits = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    let good = key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digits);
    let accept = good.then(|| derive_accept_key(key)).ok_or_else(bad)?;
    HeaderValue::try_from(accept).map_err(|_| bad())
}

/// Serves the connection to its end.
pub(crate) async fn serve(upgrade: OnUpgrade, subscription: Subscription, stay: Stay) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let Ok((socket, read)) = upgraded_socket(upgraded) else {
        tracing::error!("a WebSocket came by another server; it is closed");
        return;
    };
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    let socket =
        WebSocketStream::from_partially_read(socket, read.to_vec(), Role::Server, Some(limits))
            .await;
    let mut connection = Connection {
        socket,
        heard: Instant::now(),
    };
    let closing = connection.run(subscription, stay).await;
    connection.close(closing).await;
}

struct Connection {
    socket: WebSocketStream<Socket>,
    heard: Instant,
}

/// How a connection ends.
enum Closing {
    /// There is nobody to tell.
    Gone,
    /// With a code and a reason.
    With(CloseCode, &'static str),
}

impl Connection {
    async fn run(&mut self, mut subscription: Subscription, stay: Stay) -> Closing {
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        loop {
            let message = tokio::select! {
                biased;
                over = stay.over() => return self.over(over).await,
                heard = self.socket.next() => match self.hear(heard) {
                    Some(closing) => return closing,
                    None => continue,
                },
                () = sleep_until(self.heard + DEAD_AFTER) => return Closing::Gone,
                _ = pings.tick() => Message::Ping(Bytes::new()),
                frame = subscription.next() => Message::Text(frame.json().clone()),
            };
            let begun = Instant::now();
            if self.socket.send(message).await.is_err() {
                return Closing::Gone;
            }
            if begun.elapsed() > WAITED {
                self.heard = Instant::now();
            }
        }
    }

    /// Says goodbye.
    async fn over(&mut self, over: Over) -> Closing {
        if over == Over::Expired {
            return Closing::With(CloseCode::from(CLOSE_EXPIRED), "the token has expired");
        }
        let goodbye = Message::Text(bye().json().clone());
        match self.socket.send(goodbye).await {
            Ok(()) => Closing::With(CloseCode::from(CLOSE_RECONNECT), "restarting"),
            Err(_) => Closing::Gone,
        }
    }

    /// What the client says ends the connection, or only shows that it lives.
    fn hear(&mut self, heard: Option<Result<Message, Error>>) -> Option<Closing> {
        self.heard = Instant::now();
        match heard {
            // Its close was answered by tungstenite; or the stream has ended.
            Some(Ok(Message::Close(_))) | None => Some(Closing::Gone),
            // Ping was answered by tungstenite; there is nothing to say here by text or binary.
            Some(Ok(_)) => None,
            Some(Err(Error::Capacity(CapacityError::MessageTooLong { .. }))) => {
                Some(Closing::With(CloseCode::Size, "messages here are short"))
            }
            Some(Err(Error::Protocol(_))) => {
                Some(Closing::With(CloseCode::Protocol, "not by RFC 6455"))
            }
            Some(Err(Error::Utf8(_))) => Some(Closing::With(CloseCode::Invalid, "not UTF-8")),
            Some(Err(_)) => Some(Closing::Gone),
        }
    }

    /// Says why, and waits a little for the client to agree.
    async fn close(mut self, closing: Closing) {
        if let Closing::With(code, reason) = closing {
            let frame = CloseFrame {
                code,
                reason: reason.into(),
            };
            let farewell = async {
                if self.socket.close(Some(frame)).await.is_ok() {
                    while let Some(Ok(_)) = self.socket.next().await {}
                }
                // The rest of a message that was refused is still on its way. Closing with it unread
                // resets the connection, and the client might never learn the code.
                let _ = self.socket.get_mut().shutdown().await;
            };
            // A client that does not answer is left alone.
            let _ = timeout(CLOSE_PATIENCE, farewell).await;
        } else {
            // Flushes the answer to a close, if there is one.
            let _ = timeout(CLOSE_PATIENCE, self.socket.flush()).await;
        }
    }
}
