//! The interface, described for programs: an OpenAPI document, written by hand. The tests hold it against
//! every answer (`tests/service/contract.rs`).

use axum::{Router, routing::any};
use emostream_http::{AllowOrigin, Body, Response, compress_json};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

/// Where it is served.
pub(crate) const PATH: &str = "/openapi.json";

const METHODS: &str = "GET, HEAD, OPTIONS";

const DOCUMENT: &str = include_str!("../../openapi.json");

/// Its route.
pub(crate) fn router(allow: &AllowOrigin) -> Router {
    let router = Router::new().route(PATH, any(async || document()));
    allow.around(METHODS, compress_json(router))
}

fn document() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    // It changes with the program alone, so some minutes do no harm.
    let minutes = HeaderValue::from_static("max-age=300");
    response.headers_mut().insert(CACHE_CONTROL, minutes);
    response
}
