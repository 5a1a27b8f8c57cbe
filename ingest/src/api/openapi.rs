//! The interface, described for programs: an OpenAPI document, written by hand. The tests hold it against
//! every answer (`tests/service/contract.rs`).

use emostream_http::{AllowOrigin, Body, Problem, Request, Response};
use hyper::{
    Method,
    header::{CONTENT_TYPE, HeaderValue, ORIGIN},
};

/// Where it is served.
pub(crate) const PATH: &str = "/openapi.json";

const METHODS: &str = "GET, HEAD, OPTIONS";

const DOCUMENT: &str = include_str!("../../openapi.json");

/// The answer to a request for it.
pub(crate) fn answer(request: &Request, allow: &AllowOrigin) -> Response {
    let headers = request.headers();
    let mut response = match *request.method() {
        Method::OPTIONS => return allow.preflight(headers, METHODS),
        Method::GET | Method::HEAD if allow.permits(headers) => document(),
        Method::GET | Method::HEAD => AllowOrigin::refusal().into(),
        _ => Problem::method_not_allowed(METHODS).into(),
    };
    allow.apply(headers.get(ORIGIN), response.headers_mut());
    response
}

fn document() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
