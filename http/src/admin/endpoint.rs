//! The endpoints for operators: `/healthz`, `/readyz`, `/metrics`.

use axum::{Router, response::IntoResponse, routing::get};
use hyper::{
    HeaderMap, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use prometheus::{Encoder, Registry, TEXT_FORMAT, TextEncoder};

use crate::{Body, Problem, Readiness, Response, message::not_found::unknown_path};

/// The endpoints for operators. They report whether a process is alive, whether it is ready or why not, and its metrics
/// as Prometheus text.
#[derive(Debug, Clone)]
pub struct Admin {
    registry: Registry,
    readiness: Readiness,
}

impl Admin {
    /// Creates the endpoints for the metrics of `registry` and for `readiness`.
    pub fn new(registry: Registry, readiness: Readiness) -> Self {
        Self {
            registry,
            readiness,
        }
    }

    /// Returns the router. Every path that is not one of the endpoints gets 404.
    pub fn router(self) -> Router {
        let (ready, measured) = (self.clone(), self);
        Router::new()
            .route(
                "/healthz",
                get(async || plain(StatusCode::OK, "alive".to_owned())),
            )
            .route("/readyz", get(async move || ready.readyz()))
            .route("/metrics", get(async move || measured.metrics()))
            .method_not_allowed_fallback(async || Problem::method_not_allowed("GET, HEAD"))
            .fallback(async |headers: HeaderMap| unknown_path(&headers))
    }

    fn metrics(&self) -> Response {
        let mut page = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            Ok(()) => text(StatusCode::OK, TEXT_FORMAT, page),
            Err(error) => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
            }
        }
    }

    fn readyz(&self) -> Response {
        match self.readiness.check() {
            Ok(()) => match self.readiness.activities() {
                activities if activities.is_empty() => plain(StatusCode::OK, "ready".to_owned()),
                activities => plain(StatusCode::OK, format!("ready; {activities}")),
            },
            Err(reasons) => plain(StatusCode::SERVICE_UNAVAILABLE, reasons),
        }
    }
}

fn plain(status: StatusCode, line: String) -> Response {
    let line = line + "\n";
    text(status, "text/plain; charset=utf-8", line.into_bytes())
}

fn text(status: StatusCode, kind: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
