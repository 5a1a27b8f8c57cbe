//! The response to a request of any kind of connection: request id, routing, and a log line for a failure.
//!
//! tower-http's request-id layer is not used: it keeps any id that a client sends, of any length.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use axum::{Router, response::IntoResponse};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Version,
    body::Incoming,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue},
};
use tower_service::Service;

use crate::{
    Body, Problem, Response, message::problem::Failure, server::rate_limiter::RateLimiter,
};

/// The header with the id that a request has in the client, in proxies and in our log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum bytes of a client's id: it is repeated in a header and in the log. A UUID has 36, the trace ids of proxies
/// up to 100.
const REQUEST_ID_BYTES: usize = 128;

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
        let id = request_id(request.headers());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let mut response = match misdirected(&request) {
            Some(problem) => problem.into_response(),
            None => {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                let Ok(response) = self.router.clone().call(request).await;
                response
            }
        };
        if let Some(Failure(detail)) = response.extensions_mut().remove() {
            self.log_failure(&id, response.status(), &method, uri.path(), &detail);
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
            matches!(method, Method::GET | Method::HEAD) && !response.status().is_informational();
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

/// Returns the client's id if it is short and cannot break a log line, otherwise a random one.
fn request_id(request: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=/+@".contains(byte);
    let valid = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(plain)
    };
    match request.get(REQUEST_ID).filter(valid) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(format!("{:016x}", rand::random::<u64>()))
            .unwrap_or_else(|_| unreachable!("hexadecimal digits are a header value")),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn an_id_of_the_client_is_kept_if_it_is_short_and_plain() {
        let given = |id: &str| {
            let id = HeaderValue::from_bytes(id.as_bytes()).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, id)]))
        };
        for id in [
            "b3a1c2d4-0000-4000-8000-0123456789ab",
            "Root=1-67891233-abcdef012345678912345678",
            "x",
        ] {
            assert_eq!(given(id), id);
        }
        let long = "x".repeat(REQUEST_ID_BYTES + 1);
        for id in ["", "a b", "a\"b", "é", &long] {
            let made = given(id);
            assert_ne!(made, id);
            assert_eq!(made.as_bytes().len(), 16);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
