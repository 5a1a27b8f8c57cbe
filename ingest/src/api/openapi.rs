//! The interface, described for programs: an OpenAPI document, written by hand. The tests hold it against
//! every answer (`tests/service/contract.rs`).

use axum::{Router, routing::any};
use emostream_http::{AllowOrigin, Body, Response};
use hyper::header::{CONTENT_TYPE, HeaderValue};

/// Where it is served.
pub(crate) const PATH: &str = "/openapi.json";

const METHODS: &str = "GET, HEAD, OPTIONS";

const DOCUMENT: &str = include_str!("../../openapi.json");

/// Its route.
pub(crate) fn router(allow: &AllowOrigin) -> Router {
    allow.around(METHODS, Router::new().route(PATH, any(async || document())))
}

fn document() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
