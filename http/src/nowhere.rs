//! The answer where nobody else has one.

use std::net::SocketAddr;

use hyper::{
    Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};

use crate::{AllowOrigin, Handler, Problem, Request, Response};

/// What a page may have meant to ask for at a wrong path.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";

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
        let mut response = Problem::unknown_path().into_response();
        self.0.apply(headers.get(ORIGIN), response.headers_mut());
        response
    }
}
