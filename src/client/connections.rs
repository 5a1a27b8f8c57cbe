//! Connections to one server, as many as requests are under way: a free one is used again, a new one
//! is opened where none is free, up to a limit.
//!
//! ```text
//!  place (of --connections) ──▶ a free connection, the one used last ──▶ request, answer ──▶ free again
//!                          └──▶ none free: a new one
//! ```
//!
//! hyper-util's pooled client is not used: it opens another connection while it waits for a free one and keeps both, so
//! `--connections` would not be a limit.
//!
//! Invariant: a request is written once. Only one that was not written goes to another connection.

#![allow(clippy::disallowed_methods, reason = "measures latencies")]

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

/// The largest answer worth reading: a full 207 lists 1000 entries.
const ANSWER_BYTES: usize = 1 << 20;
/// The kernel's numbers for "too many open files", of the process and of the system.
const TOO_MANY_FILES: [i32; 2] = [24, 23];

type Connection = SendRequest<Full<Bytes>>;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The server answered.
    Status(StatusCode, Bytes),
    /// No connection was made: the server cannot have seen it.
    Refused(String),
    /// The connection broke, or no answer came in time: it may have been taken.
    Unknown(String),
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) path: Uri,
    /// JSON.
    pub(crate) body: Bytes,
    /// Who asks.
    pub(crate) token: Option<Token>,
}

/// See the module.
pub(crate) struct Connections {
    endpoint: Endpoint,
    host: HeaderValue,
    answer_limit: Duration,
    places: Arc<Semaphore>,
    pool: Mutex<Pool>,
}

#[derive(Default)]
struct Pool {
    /// Used last, last.
    free: Vec<Connection>,
    opened: u64,
    limit: usize,
    fewer_than_asked: bool,
}

/// What was needed.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Opened {
    pub(crate) opened: u64,
    /// How many there may be at a time.
    pub(crate) limit: usize,
    /// Whether the limit on open files lowered it.
    pub(crate) open_files_reached: bool,
}

impl Connections {
    /// At most `limit` at a time; an answer may take `answer_limit`.
    pub(crate) fn new(endpoint: Endpoint, limit: usize, answer_limit: Duration) -> Self {
        // An authority that was parsed is a valid header.
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
            places: Arc::new(Semaphore::new(limit)),
            pool: Mutex::new(pool),
        }
    }

    /// The right to have one request under way.
    pub(crate) async fn place(&self) -> OwnedSemaphorePermit {
        match self.places.clone().acquire_owned().await {
            Ok(place) => place,
            Err(_) => unreachable!("nobody closes the places"),
        }
    }

    /// The user that reactions are of: the token's, or else `usual`.
    pub(crate) fn user<'a>(&'a self, usual: &'a str) -> &'a str {
        self.endpoint.token().map_or(usual, |token| &token.user)
    }

    /// Posts JSON with the endpoint's token.
    pub(crate) async fn post(&self, path: &'static str, body: Bytes) -> Answer {
        self.ask_by_token(Method::POST, path, body).await
    }

    /// Gets with the endpoint's token.
    pub(crate) async fn get(&self, path: &'static str) -> Answer {
        self.ask_by_token(Method::GET, path, Bytes::new()).await
    }

    async fn ask_by_token(&self, method: Method, path: &'static str, body: Bytes) -> Answer {
        let question = Question {
            method,
            path: Uri::from_static(path),
            body,
            token: self.endpoint.token().cloned(),
        };
        self.ask(self.place().await, question).await.0
    }

    /// Asks; also says when the answer was there.
    pub(crate) async fn ask(
        &self,
        place: OwnedSemaphorePermit,
        question: Question,
    ) -> (Answer, Instant) {
        match tokio::time::timeout(self.answer_limit, self.exchange(place, question)).await {
            Ok(answered) => answered,
            Err(_) => {
                let why = format!("no answer within {:?}", self.answer_limit);
                (Answer::Unknown(why), Instant::now())
            }
        }
    }

    async fn exchange(
        &self,
        mut place: OwnedSemaphorePermit,
        question: Question,
    ) -> (Answer, Instant) {
        let now = |answer| (answer, Instant::now());
        let mut request = self.request(question);
        loop {
            let (mut connection, fresh) = match self.free().await {
                Some(connection) => (connection, false),
                None => match self.open().await {
                    Ok(connection) => (connection, true),
                    Err(error) if self.too_many(&error) => {
                        place.forget();
                        place = self.place().await;
                        continue;
                    }
                    Err(error) => return now(Answer::Refused(error.to_string())),
                },
            };
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let status = response.status();
                    let answer = match whole(response.into_body()).await {
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

    fn request(&self, question: Question) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(question.body));
        *request.method_mut() = question.method;
        *request.uri_mut() = question.path;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Token::sign(question.token.as_ref(), headers);
        request
    }

    /// A connection that stands; the server may have closed some meanwhile.
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
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (connection, driver) = shaken.map_err(io::Error::other)?;
        // It ends with the connection; what it says then, the request under way says too.
        tokio::spawn(driver);
        self.pool().opened += 1;
        Ok(connection)
    }

    /// Whether the process may open no more: then it goes on with those it has, if any.
    fn too_many(&self, error: &io::Error) -> bool {
        let code = error.raw_os_error();
        let mut pool = self.pool();
        if !code.is_some_and(|code| TOO_MANY_FILES.contains(&code)) || pool.limit == 1 {
            return false;
        }
        pool.limit -= 1;
        pool.fewer_than_asked = true;
        true
    }

    /// What was needed so far.
    pub(crate) fn opened(&self) -> Opened {
        let pool = self.pool();
        Opened {
            opened: pool.opened,
            limit: pool.limit,
            open_files_reached: pool.fewer_than_asked,
        }
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let body = Limited::new(body, ANSWER_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    const LIMIT: Duration = Duration::from_secs(20);
    const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

    /// Answers `requests` of one connection, and closes it.
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
        // Closed by the server: the request is not lost with it, unless it was written meanwhile.
        while connections.pool().free.iter().any(|free| !free.is_closed()) {
            tokio::task::yield_now().await;
        }
        assert!(matches!(post(&connections).await, Answer::Status(..)));
        assert_eq!(connections.opened().opened, 2);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_closes_without_an_answer_leaves_an_unknown() {
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
    async fn with_no_more_open_files_it_goes_on_with_the_connections_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = to(&listener, 2);
        let no_more = io::Error::from_raw_os_error(TOO_MANY_FILES[0]);
        assert!(connections.too_many(&no_more));
        assert!(!connections.too_many(&no_more), "the last is not given up");
        assert!(connections.opened().open_files_reached);
        assert!(!connections.too_many(&io::Error::other("refused")));
    }
}
