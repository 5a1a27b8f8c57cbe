//! Decides which pages of other origins may use a service (CORS).
//!
//! tower-http's CORS layer is not used, for three reasons. It answers a preflight with 200, while this module answers
//! with 204 and `Allow`. It runs the handler for a request of an origin that is not allowed. Behind a proxy, it does
//! not accept pages of the service's own host.

use std::{str::FromStr, sync::Arc};

use axum::{
    Router,
    middleware::{Next, from_fn},
    response::IntoResponse,
};
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, HeaderValue, ORIGIN, VARY,
    },
};

use url::Url;

use crate::{Body, Problem, Request, Response};

/// Time in seconds for which a browser may cache a preflight response. Browsers have maximums of their own, from 2 to
/// 24 hours.
const PREFLIGHT_SECONDS: &str = "7200";

/// Request headers that pages of other origins may set.
const REQUEST_HEADERS: &str = "content-type, prefer, authorization, last-event-id";

/// Response headers that scripts of other origins may read, in addition to those that the Fetch standard always allows.
const RESPONSE_HEADERS: &str = "retry-after, x-request-id";

/// The origins whose pages may use a service: `*`, or a comma separated list of origins.
///
/// Pages of the service's own origin may always use it, and so may programs that are not browsers, since they send no
/// `Origin`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AllowOrigin {
    /// Every page.
    #[default]
    Any,
    /// Pages of these origins.
    List(Vec<Origin>),
}

/// An origin as browsers serialise it (WHATWG HTML, "Serialization of an origin"): in lower case, with the host in its
/// normal form, and without the default port of the scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// The error for a value of `--allow-origin` that is not a list of origins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not the origin of a page; write * or, for example, https://example.org, without a path or a wildcard"
)]
pub struct InvalidOrigin(String);

/// Schemes that the origin of a page cannot have.
const NOT_OF_PAGES: [&str; 4] = ["ws", "wss", "ftp", "file"];

impl FromStr for AllowOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self::List)
    }
}

impl FromStr for Origin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let text = text.trim();
        let invalid = || InvalidOrigin(text.to_owned());
        let url = Url::parse(text).map_err(|_| invalid())?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && matches!(url.path(), "" | "/")
            && url.query().is_none()
            && url.fragment().is_none();
        let host = url
            .host_str()
            .filter(|host| !host.is_empty() && !host.contains('*'));
        match host {
            Some(host) if bare && !NOT_OF_PAGES.contains(&url.scheme()) => {
                let port = url.port().map_or(String::new(), |port| format!(":{port}"));
                Ok(Self(format!("{}://{host}{port}", url.scheme())))
            }
            _ => Err(invalid()),
        }
    }
}

impl Origin {
    /// Returns whether the `Origin` header of a request is this origin, in any spelling.
    fn is(&self, origin: &HeaderValue) -> bool {
        // Nearly all requests come from browsers, which write an origin in its normal form. So comparing the bytes is
        // usually enough.
        self.0.as_bytes() == origin.as_bytes() || Self::of(origin).as_ref() == Some(self)
    }

    fn of(origin: &HeaderValue) -> Option<Self> {
        origin.to_str().ok()?.parse().ok()
    }

    /// Returns whether this is the origin of `host`, the value of a request's Host header.
    fn is_of(&self, host: &HeaderValue) -> bool {
        let Some((scheme, _)) = self.0.split_once("://") else {
            return false;
        };
        let host = host.to_str().ok();
        let requested = host.and_then(|host| format!("{scheme}://{host}").parse().ok());
        requested.as_ref() == Some(self)
    }
}

impl AllowOrigin {
    /// Returns whether the page that sent a request with these headers may use the service. Call this function before
    /// the request has any effect, since browsers send simple requests and WebSocket handshakes without a preflight.
    pub fn permits(&self, request: &HeaderMap) -> bool {
        match (self, request.get(ORIGIN)) {
            (Self::Any, _) | (_, None) => true,
            (Self::List(origins), Some(origin)) => {
                origins.iter().any(|allowed| allowed.is(origin)) || is_own(origin, request)
            }
        }
    }

    /// Returns the 403 for an origin that is not allowed.
    pub fn refusal() -> Problem {
        let detail = "pages of this origin may not use this service (--allow-origin)";
        Problem::new(StatusCode::FORBIDDEN, detail)
    }

    /// Sets the headers that let a page of `origin` read the response and its headers, if the origin is allowed.
    pub fn apply(&self, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
        if self.allow(origin, response) {
            let exposed = HeaderValue::from_static(RESPONSE_HEADERS);
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    /// Sets the headers that name the allowed origin. Returns whether `origin` is allowed.
    fn allow(&self, origin: Option<&HeaderValue>, response: &mut HeaderMap) -> bool {
        match self {
            Self::Any => {
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::List(origins) => {
                response.append(VARY, HeaderValue::from_static("origin"));
                let Some(origin) =
                    origin.filter(|origin| origins.iter().any(|allowed| allowed.is(origin)))
                else {
                    return false;
                };
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
        }
        true
    }

    /// Adds CORS to the routes of `router`, all of which accept `methods` (comma separated). Preflights are answered,
    /// other methods and origins that are not allowed are refused, and pages of allowed origins may read the responses.
    pub fn around(&self, methods: &'static str, router: Router) -> Router {
        let allow = Arc::new(self.clone());
        router.route_layer(from_fn(move |request: Request, next: Next| {
            let allow = allow.clone();
            async move { allow.respond(methods, request, next).await }
        }))
    }

    async fn respond(&self, methods: &'static str, request: Request, next: Next) -> Response {
        if *request.method() == Method::OPTIONS {
            return self.preflight(request.headers(), methods);
        }
        let origin = request.headers().get(ORIGIN).cloned();
        let mut accepted = methods.split(", ");
        let mut response = if !accepted.any(|method| method == request.method().as_str()) {
            Problem::method_not_allowed(methods).into_response()
        } else if !self.permits(request.headers()) {
            Self::refusal().into_response()
        } else {
            next.run(request).await
        };
        self.apply(origin.as_ref(), response.headers_mut());
        response
    }

    /// Returns the response to `OPTIONS`: 204 with the allowed origin, methods and headers. `methods` is comma
    /// separated.
    pub fn preflight(&self, request: &HeaderMap, methods: &'static str) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.allow(request.get(ORIGIN), headers);
        for (name, value) in [
            (hyper::header::ALLOW, methods),
            (ACCESS_CONTROL_ALLOW_METHODS, methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
            (ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Returns whether a page's origin is the host to which it sends the request. A proxy may add the default port to the
/// Host header. Browsers omit this port in `Origin`, so the default port is ignored in this comparison.
fn is_own(origin: &HeaderValue, request: &HeaderMap) -> bool {
    match (Origin::of(origin), request.get(HOST)) {
        (Some(origin), Some(host)) => origin.is_of(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    fn from(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(HOST, "react.example:8080".parse().unwrap());
        headers
    }

    #[test]
    fn a_list_permits_its_origins_the_own_origin_and_programs() {
        let list: AllowOrigin = "https://a.example, http://b.example:81/".parse().unwrap();
        for (origin, permitted) in [
            ("https://a.example", true),
            ("http://b.example:81", true),
            ("http://react.example:8080", true),
            ("http://a.example", false),
            ("https://a.example.evil", false),
            ("null", false),
        ] {
            assert_eq!(list.permits(&from(origin)), permitted, "{origin}");
            assert!(AllowOrigin::Any.permits(&from(origin)));
        }
        assert!(list.permits(&HeaderMap::new()));
    }

    /// An earlier version accepted `https://a.example:443` in the list and compared it as text. Browsers send no
    /// default port in `Origin`, so every page of that origin got 403.
    #[test]
    fn an_origin_is_the_same_in_every_spelling() {
        for (listed, origin) in [
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:80/", "http://a.example"),
            ("HTTPS://A.Example", "https://a.example"),
            ("https://a.example", "https://a.example:443"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0::1]:81", "http://[::1]:81"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            let list: AllowOrigin = listed.parse().unwrap();
            assert!(list.permits(&from(origin)), "{listed}: {origin}");
            let answer = list.preflight(&from(origin), "POST");
            assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], origin);
        }
    }

    #[test]
    fn the_own_page_is_permitted_with_and_without_the_port_of_a_proxy() {
        let list: AllowOrigin = "https://a.example".parse().unwrap();
        for (origin, host, permitted) in [
            ("https://b.example", "b.example", true),
            ("https://b.example", "b.example:443", true),
            ("https://b.example", "B.example:443", true),
            ("http://b.example", "b.example:80", true),
            ("http://b.example:81", "b.example:81", true),
            ("https://b.example", "b.example:444", false),
            ("https://b.example", "c.example", false),
            ("https://b.example", "b.example/x", false),
            ("null", "b.example", false),
        ] {
            let mut headers = from(origin);
            headers.insert(HOST, host.parse().unwrap());
            assert_eq!(list.permits(&headers), permitted, "{origin}: {host}");
        }
    }

    #[test]
    fn an_invalid_origin_is_refused() {
        for text in [
            "",
            "a.example",
            "https://",
            "https://a/b",
            "https://u@a",
            "*,https://a",
            "ä",
            "null",
            "https://a?b",
            "https://a/#b",
            // These values are refused: no page has one of them as its origin, so they would never match.
            "https://*.a.example",
            "wss://a.example",
            "localhost:8080",
            "file:///",
        ] {
            assert!(text.parse::<AllowOrigin>().is_err(), "{text}");
        }
        assert_eq!(" * ".parse(), Ok(AllowOrigin::Any));
    }

    #[test]
    fn a_response_that_depends_on_the_origin_has_a_vary_header() {
        let list: AllowOrigin = "https://a.example".parse().unwrap();
        for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
            let response = list.preflight(&from(origin), "POST");
            assert_eq!(response.headers()[VARY], "origin");
            let answer = response.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(answer.is_some(), allowed);
        }
        let response = AllowOrigin::Any.preflight(&from("https://x"), "POST");
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!response.headers().contains_key(VARY));
    }
}
