//! The response to a request of any kind of connection: request id, routing, and a log line for a failure.
//!
//! Every response of this crate has a request id, also those that refuse a connection before a request is read. Only
//! the 400 and 431 that hyper sends for a head which it cannot parse have none: no handler is called for them.
//!
//! tower-http's request-id layer is not used: it keeps any id that a client sends, of any length.

#![allow(clippy::disallowed_methods, reason = "limits log lines by time")]

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use axum::{Router, response::IntoResponse};
use hyper::{
    Method, Request, StatusCode, Version,
    body::Incoming,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue},
};
use tower_service::Service;

use crate::{
    Body, Problem, Response,
    message::problem::Failure,
    message::request_id::{REQUEST_ID, request_id},
    server::rate_limiter::RateLimiter,
};

/// Maximum log lines of failed requests per second: during an outage every request fails, and the outage itself is
/// logged elsewhere.
const FAILURE_LINES_PER_SECOND: f64 = 1.0;

/// Responds to the requests of one listener.
pub(crate) struct Responder {
    router: Router,
    failures: Mutex<Failures>,
}

struct Failures {
    lines: RateLimiter,
    /// Failures since the last line.
    unlogged: u64,
}

impl Responder {
    pub(crate) fn new(router: Router) -> Self {
        let failures = Failures {
            lines: RateLimiter::new(FAILURE_LINES_PER_SECOND, Instant::now()),
            unlogged: 0,
        };
        Self {
            router,
            failures: Mutex::new(failures),
        }
    }

    /// Returns the service's response with a request id, and with `no-store` for `GET` and `HEAD` if the service has
    /// set no `Cache-Control`.
    ///
    /// Handlers find the address of the client in the extensions, as a [`SocketAddr`].
    pub(crate) async fn respond(&self, request: Request<Incoming>, peer: SocketAddr) -> Response {
        if let Some(problem) = misdirected(&request) {
            return self.refuse(&request, problem);
        }
        let id = request_id(request.headers());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let Ok(response) = self.router.clone().call(request).await;
        self.complete(response, id, &method, uri.path())
    }

    /// Returns the response that refuses a request which the router does not get.
    pub(crate) fn refuse(&self, request: &Request<Incoming>, problem: Problem) -> Response {
        let id = request_id(request.headers());
        let path = request.uri().path();
        self.complete(problem.into_response(), id, request.method(), path)
    }

    fn complete(
        &self,
        mut response: Response,
        id: HeaderValue,
        method: &Method,
        path: &str,
    ) -> Response {
        if let Some(Failure(detail)) = response.extensions_mut().remove() {
            self.log_failure(&id, response.status(), method, path, &detail);
        }
        // axum sets `Content-Length: 0` for an empty body. A 204 must not have the header, and in a 304 it is the
        // length of the 200 (RFC 9110, 8.6).
        if matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        ) {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        // Without it, a cache may store a 404 for a time that it chooses itself (RFC 9111, 4.2.2).
        let cacheable =
            matches!(*method, Method::GET | Method::HEAD) && !response.status().is_informational();
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        if cacheable && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }

    /// Logs a failed request, without the query: it may contain a token.
    fn log_failure(
        &self,
        id: &HeaderValue,
        status: StatusCode,
        method: &Method,
        path: &str,
        detail: &str,
    ) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if !failures.lines.try_acquire(Instant::now()) {
            failures.unlogged += 1;
            return;
        }
        let unlogged = std::mem::take(&mut failures.unlogged);
        drop(failures);
        let (request_id, status) = (id.to_str().unwrap_or_default(), status.as_u16());
        tracing::warn!(request_id, status, %method, path, detail, unlogged, "a request failed");
    }
}

/// Returns the refusal that RFC 9112 (3.2) requires: a proxy in front may have used another one of the hosts.
fn misdirected<B>(request: &Request<B>) -> Option<Problem> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let wrong = hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11;
    wrong.then(|| {
        Problem::bad_request("a request names its host once: one Host header")
            .header(CONNECTION, HeaderValue::from_static("close"))
    })
}
