//! A pool of HTTP/1.1 connections to one server. Each request in flight has a connection of its own. An idle connection
//! is reused. If no connection is idle, a new one is opened, up to a limit.
//!
//! ```text
//!  permit (of --connections) ──▶ the most recently used idle connection ──▶ request, response ──▶ idle again
//!                           └──▶ if none is idle: a new connection
//! ```
//!
//! We do not use the pooled client of hyper-util. While this client waits for an idle connection, it also opens a new
//! connection and keeps both, so `--connections` would not be a limit.
//!
//! Invariant: no request is written twice. A request is retried on another connection only if it was not written at
//! all.

#![allow(clippy::disallowed_methods, reason = "this module measures latencies")]

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{CONTENT_TYPE, HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Endpoint, Token, reason};

/// Maximum bytes of a response. The largest responses have the status 207 and list up to 1000 reactions.
const ANSWER_BYTES: usize = 1 << 20;
/// The error numbers EMFILE (too many open files of the process) and ENFILE (too many open files of the system).
const TOO_MANY_FILES: [i32; 2] = [24, 23];

type Connection = SendRequest<Full<Bytes>>;

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The server responded with this status and body.
    Status(StatusCode, Bytes),
    /// No connection could be opened, or the request could not be written. So the server cannot have received the
    /// request.
    Refused(String),
    /// The connection broke, or no response arrived in time. The server may have accepted the request.
    Unknown(String),
}

/// A request to the API.
#[derive(Debug, Clone)]
pub(crate) struct ApiRequest {
    pub(crate) method: Method,
    pub(crate) path: Uri,
    /// The body of the request, as JSON text.
    pub(crate) body: Bytes,
    /// The token of the `Authorization` header.
    pub(crate) token: Option<Token>,
}

/// The connections to one server.
pub(crate) struct Connections {
    endpoint: Endpoint,
    host: HeaderValue,
    answer_limit: Duration,
    permits: Arc<Semaphore>,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Idle connections. The most recently used connection is at the end.
    free: Vec<Connection>,
    opened: u64,
    limit: usize,
    limit_was_lowered: bool,
}

/// The number of connections that a pool has opened, and its limit.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Opened {
    pub(crate) opened: u64,
    /// Maximum concurrent connections.
    pub(crate) limit: usize,
    /// Whether `limit` was lowered because the limit on open files was reached.
    pub(crate) open_files_reached: bool,
}

impl Connections {
    /// Creates a pool of at most `limit` connections. `answer_limit` is the timeout of a request with its response.
    pub(crate) fn new(endpoint: Endpoint, limit: usize, answer_limit: Duration) -> Self {
        // The authority is always a valid header value, because it was parsed from a URL.
        let host = HeaderValue::from_str(&endpoint.server().authority())
            .unwrap_or(HeaderValue::from_static(""));
        let pool = Pool {
            limit,
            ..Pool::default()
        };
        Self {
            endpoint,
            host,
            answer_limit,
            permits: Arc::new(Semaphore::new(limit)),
            pool: Mutex::new(pool),
        }
    }

    /// Waits until fewer requests than the limit are in flight, and returns the permit for one more.
    pub(crate) async fn permit(&self) -> OwnedSemaphorePermit {
        match self.permits.clone().acquire_owned().await {
            Ok(permit) => permit,
            Err(_) => unreachable!("the semaphore is never closed"),
        }
    }

    /// Returns the user who sends the reactions: the user of the token, or `usual` without a token.
    pub(crate) fn user<'a>(&'a self, usual: &'a str) -> &'a str {
        self.endpoint.token().map_or(usual, |token| &token.user)
    }

    /// Sends a POST of JSON with the endpoint's token.
    pub(crate) async fn post(&self, path: &'static str, body: Bytes) -> Answer {
        self.send_with_token(Method::POST, path, body).await
    }

    /// Sends a GET with the endpoint's token.
    pub(crate) async fn get(&self, path: &'static str) -> Answer {
        self.send_with_token(Method::GET, path, Bytes::new()).await
    }

    async fn send_with_token(&self, method: Method, path: &'static str, body: Bytes) -> Answer {
        let request = ApiRequest {
            method,
            path: Uri::from_static(path),
            body,
            token: self.endpoint.token().cloned(),
        };
        self.send(self.permit().await, request).await.0
    }

    /// Sends a request. Returns its outcome, and the time at which the outcome was known.
    pub(crate) async fn send(
        &self,
        permit: OwnedSemaphorePermit,
        request: ApiRequest,
    ) -> (Answer, Instant) {
        match tokio::time::timeout(self.answer_limit, self.exchange(permit, request)).await {
            Ok(answered) => answered,
            Err(_) => {
                let why = format!("no response within {:?}", self.answer_limit);
                (Answer::Unknown(why), Instant::now())
            }
        }
    }

    async fn exchange(
        &self,
        mut permit: OwnedSemaphorePermit,
        request: ApiRequest,
    ) -> (Answer, Instant) {
        let now = |answer| (answer, Instant::now());
        let mut request = self.build(request);
        loop {
            let (mut connection, fresh) = match self.free().await {
                Some(connection) => (connection, false),
                None => match self.open().await {
                    Ok(connection) => (connection, true),
                    Err(error) if self.too_many(&error) => {
                        permit.forget();
                        permit = self.permit().await;
                        continue;
                    }
                    Err(error) => return now(Answer::Refused(error.to_string())),
                },
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let status = response.status();
                    let answer = match read_body(response.into_body()).await {
                        Ok(body) => Answer::Status(status, body),
                        Err(why) => return now(Answer::Unknown(why)),
                    };
                    let answered = now(answer);
                    self.pool().free.push(connection);
                    return answered;
                }
                Err(mut error) => match error.take_message() {
                    Some(unwritten) if !fresh => request = unwritten,
                    Some(_) => return now(Answer::Refused(reason(error.error()))),
                    None => return now(Answer::Unknown(reason(error.error()))),
                },
            }
        }
    }

    fn build(&self, parts: ApiRequest) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(parts.body));
        *request.method_mut() = parts.method;
        *request.uri_mut() = parts.path;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Token::sign(parts.token.as_ref(), headers);
        request
    }

    /// Returns an idle connection that is still open. Drops the idle connections that the server has closed.
    async fn free(&self) -> Option<Connection> {
        loop {
            let mut connection = self.pool().free.pop()?;
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn open(&self) -> io::Result<Connection> {
        let stream = self.endpoint.connect().await?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (connection, driver) = handshake.map_err(io::Error::other)?;
        // The task ends with the connection. We ignore its error, because the request in flight returns the same error.
        tokio::spawn(driver);
        self.pool().opened += 1;
        Ok(connection)
    }

    /// `error` is the reason why a connection could not be opened. If the reason is the limit on open files, and the
    /// pool's limit is above 1, this function lowers the pool's limit and returns true. The caller then waits for an
    /// open connection.
    fn too_many(&self, error: &io::Error) -> bool {
        let code = error.raw_os_error();
        let mut pool = self.pool();
        if !code.is_some_and(|code| TOO_MANY_FILES.contains(&code)) || pool.limit == 1 {
            return false;
        }
        pool.limit -= 1;
        pool.limit_was_lowered = true;
        true
    }

    /// Returns the number of connections that were opened so far, and their limit.
    pub(crate) fn opened(&self) -> Opened {
        let pool = self.pool();
        Opened {
            opened: pool.opened,
            limit: pool.limit,
            open_files_reached: pool.limit_was_lowered,
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, String> {
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const LIMIT: Duration = Duration::from_secs(20);
    const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

    /// Responds to `requests` requests of one connection, and then closes the connection.
    async fn serve(listener: &TcpListener, requests: usize) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        for _ in 0..requests {
            while !read.ends_with(b"[]") {
                assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
            }
            read.clear();
            stream.write_all(ACCEPTED).await.unwrap();
        }
    }

    fn to(listener: &TcpListener, limit: usize) -> Connections {
        let endpoint = Endpoint::in_the_clear(listener.local_addr().unwrap());
        Connections::new(endpoint, limit, LIMIT)
    }

    async fn post(connections: &Connections) -> Answer {
        let body = Bytes::from_static(b"[]");
        connections.post("/v1/reactions", body).await
    }

    #[tokio::test]
    async fn a_connection_is_used_again_and_a_closed_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = to(&listener, 10);
        let serving = tokio::spawn(async move {
            serve(&listener, 3).await;
            serve(&listener, 1).await;
        });
        for _ in 0..3 {
            assert!(matches!(post(&connections).await, Answer::Status(..)));
        }
        assert_eq!(connections.opened().opened, 1);
        // After this loop the server has closed the connection. The next request cannot be written to it, so it is
        // retried on a new connection.
        while connections.pool().free.iter().any(|free| !free.is_closed()) {
            tokio::task::yield_now().await;
        }
        assert!(matches!(post(&connections).await, Answer::Status(..)));
        assert_eq!(connections.opened().opened, 2);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn the_outcome_is_unknown_if_the_server_closes_without_a_response() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = to(&listener, 1);
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"[]") {
                stream.read_buf(&mut read).await.unwrap();
            }
        });
        assert!(matches!(post(&connections).await, Answer::Unknown(_)));
        serving.await.unwrap();
        assert!(matches!(post(&connections).await, Answer::Refused(_)));
    }

    #[tokio::test]
    async fn at_the_limit_on_open_files_the_open_connections_are_used() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = to(&listener, 2);
        let no_more = io::Error::from_raw_os_error(TOO_MANY_FILES[0]);
        assert!(connections.too_many(&no_more));
        assert!(!connections.too_many(&no_more), "the last connection stays");
        assert!(connections.opened().open_files_reached);
        assert!(!connections.too_many(&io::Error::other("refused")));
    }
}
