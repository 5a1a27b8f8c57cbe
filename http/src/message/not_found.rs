//! The response for a path without a route.

use axum::response::IntoResponse;
use hyper::{
    HeaderMap, StatusCode,
    header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS},
};

use crate::{Body, Problem, Response};

/// The HTML page of the 404, for a person who has mistyped an address.
const PAGE: &str = include_str!("not_found.html");

/// Returns a 404: an HTML page for browsers, an RFC 9457 problem for programs.
pub(crate) fn unknown_path(request: &HeaderMap) -> Response {
    match accepts_html(request) {
        true => page(),
        false => Problem::unknown_path().into_response(),
    }
}

/// Returns whether a browser has sent the request to open a page. The `Accept` header of such a request contains
/// `text/html`. Scripts and other programs accept `*/*` or JSON.
fn accepts_html(request: &HeaderMap) -> bool {
    let lines = request.get_all(ACCEPT).iter();
    let mut ranges = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    ranges.any(|range| {
        let kind = range.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/html")
    })
}

fn page() -> Response {
    let mut response = Response::new(Body::from(PAGE));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
