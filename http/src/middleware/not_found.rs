//! The fallback for paths without a route.

use axum::Router;
use hyper::{
    Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN, VARY},
};

use crate::{AllowOrigin, Request, Response, message::not_found::unknown_path};

/// Methods that the response to a preflight for an unknown path allows: the methods of all routes.
const METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// The fallback that responds with 404 to every unknown path. Preflights are answered, and pages of allowed origins may
/// read the 404. Without these, a page that requests a mistyped path would only get a CORS error and not the 404.
#[derive(Debug, Clone)]
pub struct NotFound(AllowOrigin);

impl NotFound {
    /// Creates the fallback. Pages of the origins in `allow` may read the response.
    pub fn new(allow: AllowOrigin) -> Self {
        Self(allow)
    }

    /// Adds the fallback to `router`.
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
