//! Responds to the requests of all kinds of connections: request id, routing, and a log line for a failure.
//!
//! Every response of this crate has a request id, even a response that refuses a connection before a request is read.
//! There is one exception: for a head that hyper cannot parse, hyper itself sends a 400 or 431 and calls no handler, so
//! this response has no id.
//!
//! tower-http's request-id layer is not used, since it accepts ids of any length from clients.

#![allow(
    clippy::disallowed_methods,
    reason = "measures the time between log lines"
)]

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

/// Maximum log lines about failed requests per second. During an outage every request fails, and the outage itself is
/// logged elsewhere, so a line for each request is not needed.
const FAILURE_LINES_PER_SECOND: f64 = 1.0;

/// Responds to the requests of one listener.
pub(crate) struct Responder {
    router: Router,
    failures: Mutex<Failures>,
}

struct Failures {
    lines: RateLimiter,
    /// Number of failures since the last log line.
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
    /// Handlers find the address of the client in the extensions of the request, as a [`SocketAddr`].
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

    /// Returns the response to a request that is refused before it reaches the router.
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
        // axum sets `Content-Length: 0` for an empty body. A 204 must not have this header, and in a 304 this header
        // would state the length of the 200 response (RFC 9110, 8.6). So the header is removed.
        if matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        ) {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        // Without `Cache-Control`, a cache may store a response such as a 404 for a time that the cache chooses (RFC
        // 9111, 4.2.2).
        let cacheable =
            matches!(*method, Method::GET | Method::HEAD) && !response.status().is_informational();
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, id);
        if cacheable && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }

    /// Logs a failed request. The query of its URL is not logged, since it may contain a token.
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

/// Returns a 400 for a request with several Host headers, or for an HTTP/1.1 request with none, as RFC 9112 (3.2)
/// requires. If there are several, a proxy in front of the service may have routed the request by one of them, while
/// the service would use another.
fn misdirected<B>(request: &Request<B>) -> Option<Problem> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let wrong = hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11;
    wrong.then(|| {
        Problem::bad_request("a request must have exactly one Host header")
            .header(CONNECTION, HeaderValue::from_static("close"))
    })
}
