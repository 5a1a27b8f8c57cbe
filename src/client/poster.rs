//! Sends requests over reused connections, and keeps apart what was answered from what nobody knows.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::Server;

/// The largest answer worth reading: a full 207 lists 1000 entries.
const ANSWER_BYTES: usize = 1 << 20;

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

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Poster {
    client: Client<HttpConnector, Full<Bytes>>,
    server: Server,
    timeout: Duration,
}

impl Poster {
    /// Keeps at most `idle` connections open; gives up on an answer after `timeout`.
    pub(crate) fn new(server: Server, idle: usize, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(idle)
            // A request is sent once: a silent second try would count twice.
            .retry_canceled_requests(false)
            .build(connector);
        Self {
            client,
            server,
            timeout,
        }
    }

    /// Posts JSON.
    pub(crate) async fn post(&self, path: &str, body: Bytes) -> Answer {
        self.send(Method::POST, path, body).await
    }

    /// Gets.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(self.server.url("http", path))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Answer::Refused(error.to_string()),
        };
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Unknown(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer {
        match self.client.request(request).await {
            Err(error) if error.is_connect() => Answer::Refused(reason(&error)),
            Err(error) => Answer::Unknown(reason(&error)),
            Ok(response) => {
                let status = response.status();
                match Limited::new(response.into_body(), ANSWER_BYTES)
                    .collect()
                    .await
                {
                    Ok(body) => Answer::Status(status, body.to_bytes()),
                    Err(error) => Answer::Unknown(error.to_string()),
                }
            }
        }
    }
}

/// The innermost cause, which is the one that says something.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().unwrap_or(error).to_string()
}
