//! Serves the OpenAPI document, which describes both sending and receiving.

use axum::{Router, routing::any};
use emostream_http::{AllowOrigin, Body, Response, compress_json};
use emostream_model::OPENAPI;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

/// The path of the OpenAPI document.
pub(crate) const PATH: &str = "/openapi.json";

const METHODS: &str = "GET, HEAD, OPTIONS";

/// Returns the route of the document.
pub(crate) fn router(allow: &AllowOrigin) -> Router {
    let router = Router::new().route(PATH, any(async || document()));
    allow.around(METHODS, compress_json(router))
}

fn document() -> Response {
    let mut response = Response::new(Body::from(OPENAPI));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    // The document changes only with a new version of the program, so a cached copy may be some minutes old.
    let minutes = HeaderValue::from_static("max-age=300");
    response.headers_mut().insert(CACHE_CONTROL, minutes);
    response
}
