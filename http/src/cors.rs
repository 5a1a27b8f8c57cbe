//! Which pages of other origins may use a service.

use std::str::FromStr;

use hyper::{
    HeaderMap, StatusCode, Uri,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HOST, HeaderValue, ORIGIN,
        RETRY_AFTER, VARY,
    },
};

use crate::{Body, Problem, Response};

/// How long a browser may remember a preflight answer. Browsers cap it themselves, at 2 to 24 hours.
const PREFLIGHT_SECONDS: &str = "7200";

/// The request headers that our clients set.
const REQUEST_HEADERS: &str = "content-type, prefer, authorization, last-event-id";

/// The response headers that scripts may read besides the harmless ones.
const RESPONSE_HEADERS: &str = "retry-after";

/// The origins whose pages may use a service: `*`, or a comma separated list of origins.
///
/// Pages of the service's own origin always may, and so may programs, which send no origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AllowOrigin {
    /// Every page.
    #[default]
    Any,
    /// Pages of these origins.
    List(Vec<HeaderValue>),
}

/// `--allow-origin` is not a list of origins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an origin; write * or, for example, https://example.org")]
pub struct InvalidOrigin(String);

impl FromStr for AllowOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        text.split(',')
            .map(origin)
            .collect::<Result<_, _>>()
            .map(Self::List)
    }
}

fn origin(text: &str) -> Result<HeaderValue, InvalidOrigin> {
    let invalid = || InvalidOrigin(text.trim().to_owned());
    let uri: Uri = text.trim().parse().map_err(|_| invalid())?;
    let host = uri
        .authority()
        .filter(|authority| !authority.as_str().contains('@'));
    match (uri.scheme_str(), host) {
        (Some(scheme), Some(host)) if uri.path() == "/" && uri.query().is_none() => {
            let origin = format!("{scheme}://{host}").to_ascii_lowercase();
            origin.try_into().map_err(|_| invalid())
        }
        _ => Err(invalid()),
    }
}

impl AllowOrigin {
    /// Whether the page that sent a request with these headers may use the service. To be asked before
    /// anything is done: a browser sends simple requests and WebSocket handshakes without asking.
    pub fn permits(&self, request: &HeaderMap) -> bool {
        match (self, request.get(ORIGIN)) {
            (Self::Any, _) | (_, None) => true,
            (Self::List(origins), Some(origin)) => {
                origins.contains(origin) || is_own(origin, request)
            }
        }
    }

    /// 403 for a page that may not.
    pub fn refusal() -> Problem {
        let detail = "pages of this origin may not use this service (--allow-origin)";
        Problem::new(StatusCode::FORBIDDEN, detail)
    }

    /// Lets the page that sent a request with this origin read the response, once its headers are there.
    pub fn apply(&self, origin: Option<&HeaderValue>, response: &mut HeaderMap) {
        match self {
            Self::Any => {
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::List(origins) => {
                response.append(VARY, HeaderValue::from_static("origin"));
                let Some(origin) = origin.filter(|origin| origins.contains(origin)) else {
                    return;
                };
                response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            }
        }
        if response.contains_key(RETRY_AFTER) {
            let exposed = HeaderValue::from_static(RESPONSE_HEADERS);
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    /// The answer to `OPTIONS`: 204 with what is allowed (`methods` comma separated).
    pub fn preflight(&self, request: &HeaderMap, methods: &'static str) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        self.apply(request.get(ORIGIN), headers);
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

/// Whether a page's origin is the host that it now asks.
fn is_own(origin: &HeaderValue, request: &HeaderMap) -> bool {
    let bare = |scheme: &[u8]| origin.as_bytes().strip_prefix(scheme);
    let host = bare(b"https://").or_else(|| bare(b"http://"));
    host.is_some() && host == request.get(HOST).map(HeaderValue::as_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    fn from(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(HOST, "react.example:8080".parse().unwrap());
        headers
    }

    #[test]
    fn a_list_permits_its_origins_the_own_one_and_programs() {
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

    #[test]
    fn what_is_no_origin_is_refused() {
        for text in [
            "",
            "a.example",
            "https://",
            "https://a/b",
            "https://u@a",
            "*,https://a",
            "ä",
        ] {
            assert!(text.parse::<AllowOrigin>().is_err(), "{text}");
        }
        assert_eq!(" * ".parse(), Ok(AllowOrigin::Any));
    }

    #[test]
    fn an_answer_that_depends_on_the_origin_says_so_to_caches() {
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
