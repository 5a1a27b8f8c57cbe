//! The viewer page and the client module it uses, held in the program.

use emostream_http::{Body, Response};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue},
};

/// Everything from here, nothing inline: what a sender writes can never run.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
                      object-src 'none'; base-uri 'none'; frame-ancestors 'self'";

/// The files by their path: type and content.
const FILES: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../web/index.html"),
    ),
    (
        "/emostream.js",
        "text/javascript; charset=utf-8",
        include_str!("../web/emostream.js"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("../web/style.css"),
    ),
];

/// Browsers ask for it unasked.
const ICON: &str = "/favicon.ico";

/// Whether `path` is a file of the page.
pub(crate) fn knows(path: &str) -> bool {
    path == ICON || FILES.iter().any(|(known, ..)| *known == path)
}

/// The file at `path`; an empty answer for the icon.
pub(crate) fn answer(path: &str) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, ..)| *known == path) else {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        return response;
    };
    let mut response = Response::new(Body::from(*content));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // The files change with the program, and are small.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    let sniffing = HeaderName::from_static("x-content-type-options");
    headers.insert(sniffing, HeaderValue::from_static("nosniff"));
    response
}
