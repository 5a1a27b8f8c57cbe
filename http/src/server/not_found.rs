//! The answer where no handler has one.

use std::net::SocketAddr;

use hyper::{
    HeaderMap, Method, StatusCode,
    header::{
        ACCEPT, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
        ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

use crate::{AllowOrigin, Body, Handler, Problem, Request, Response};

/// What a page may have meant to ask for at a wrong path.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// What a person gets to see who has mistyped an address.
const PAGE: &str = include_str!("not_found.html");

/// 404 for every path, which pages of allowed origins may read: a page with a wrong path shall learn
/// that it is wrong, so its browser's preflight is answered too. The last of the handlers on an address.
#[derive(Debug, Clone)]
pub struct Nowhere(AllowOrigin);

impl Nowhere {
    /// Readable for pages of these origins.
    pub fn new(allow: AllowOrigin) -> Self {
        Self(allow)
    }
}

impl Handler for Nowhere {
    fn knows(&self, _path: &str) -> bool {
        true
    }

    async fn handle(&self, request: Request, _peer: SocketAddr) -> Response {
        let headers = request.headers();
        let preflight = headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if *request.method() == Method::OPTIONS && preflight {
            return self.0.preflight(headers, METHODS);
        }
        let mut response = unknown_path(headers);
        self.0.apply(headers.get(ORIGIN), response.headers_mut());
        let accept = HeaderValue::from_static("accept");
        response.headers_mut().append(VARY, accept);
        response
    }
}

/// 404: a small page for people in a browser, a problem for programs.
pub(crate) fn unknown_path(request: &HeaderMap) -> Response {
    match accepts_html(request) {
        true => page(),
        false => Problem::unknown_path().into_response(),
    }
}

/// Browsers name HTML where a person asks for a page; scripts and programs accept anything or JSON.
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
