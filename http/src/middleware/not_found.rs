//! The answer to requests for paths without a route.

use axum::Router;
use hyper::{
    Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY},
};

use crate::{AllowOrigin, Request, Response, message::not_found::unknown_path};

/// What a page may have meant to ask for at a wrong path.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// 404 for every path, which pages of allowed origins may read: a page with a wrong path shall learn
/// that it is wrong, so its browser's preflight is answered too.
#[derive(Debug, Clone)]
pub struct NotFound(AllowOrigin);

impl NotFound {
    /// Readable for pages of these origins.
    pub fn new(allow: AllowOrigin) -> Self {
        Self(allow)
    }

    /// Answers all paths for which `router` has no route.
    pub fn after(self, router: Router) -> Router {
        router.fallback(async move |request: Request| self.respond(&request))
    }

    fn respond(&self, request: &Request) -> Response {
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
