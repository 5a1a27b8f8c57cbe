//! The viewer page and the client module it uses, held in the program.

use std::str::FromStr;

use emostream_http::{Body, Response};
use hyper::{
    StatusCode, Uri,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue},
    http::uri::Authority,
};

/// Everything from here, nothing inline: what a sender writes can never run.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
                      object-src 'none'; base-uri 'none'; frame-ancestors 'self'";
const CONNECT: &str = "connect-src 'self'";

/// Where the page is told where to send; see [`Page::new`].
const BODY: &str = "<body data-emostream-page";

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

/// The origin of an ingest: `https://react.example`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestUrl(String);

/// What is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write http://HOST[:PORT] or https://HOST[:PORT], without a path")]
pub struct InvalidIngestUrl;

impl FromStr for IngestUrl {
    type Err = InvalidIngestUrl;

    fn from_str(text: &str) -> Result<Self, InvalidIngestUrl> {
        let uri: Uri = text.trim().parse().map_err(|_| InvalidIngestUrl)?;
        let scheme = uri.scheme_str().filter(|it| ["http", "https"].contains(it));
        // Of these alone, it is the same in a page and in a policy.
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let host = uri.authority().map(Authority::as_str);
        let host = host.filter(|host| !host.starts_with(':') && host.chars().all(plain));
        match (scheme, host) {
            (Some(scheme), Some(host)) if uri.path() == "/" && uri.query().is_none() => {
                Ok(Self(format!("{scheme}://{host}")))
            }
            _ => Err(InvalidIngestUrl),
        }
    }
}

/// The page, as this publisher serves it.
#[derive(Debug)]
pub(crate) struct Page {
    html: String,
    policy: HeaderValue,
}

impl Page {
    /// A page that sends reactions to `ingest`; `None` is where the page came from.
    pub(crate) fn new(ingest: Option<&IngestUrl>) -> Self {
        let (_, _, html) = FILES[0];
        let Some(IngestUrl(url)) = ingest else {
            return Self {
                html: html.to_owned(),
                policy: HeaderValue::from_static(POLICY),
            };
        };
        let policy = POLICY.replacen(CONNECT, &format!("{CONNECT} {url}"), 1);
        Self {
            html: html.replacen(BODY, &format!(r#"{BODY} data-ingest-url="{url}""#), 1),
            policy: HeaderValue::try_from(policy).expect("an origin is plain text"),
        }
    }

    /// The file at `path`; an empty answer for the icon.
    pub(crate) fn answer(&self, path: &str) -> Response {
        let Some((file, kind, content)) = FILES.iter().find(|(known, ..)| *known == path) else {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return response;
        };
        let mut response = Response::new(match *file {
            "/" => Body::from(self.html.clone()),
            _ => Body::from(*content),
        });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // The files change with the program, and are small.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        let sniffing = HeaderName::from_static("x-content-type-options");
        headers.insert(sniffing, HeaderValue::from_static("nosniff"));
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn an_ingest_is_named_by_its_origin() {
        for (text, origin) in [
            ("https://react.example", "https://react.example"),
            ("http://10.0.0.1:8080/", "http://10.0.0.1:8080"),
            (" http://[::1]:9 ", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse(), Ok(IngestUrl(origin.to_owned())), "{text}");
        }
        for text in [
            "",
            "react.example",
            "ftp://h",
            "http://h/path",
            "http://h/?q",
            "http://u@h",
            "http://h;x",
            "http://:80",
            "http://h'x",
        ] {
            assert!(text.parse::<IngestUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_page_is_told_where_to_send_and_may_send_there() {
        let own = Page::new(None);
        assert!(!own.html.contains("data-ingest-url") && own.policy == POLICY);
        let url = "https://react.example".parse().unwrap();
        let told = Page::new(Some(&url));
        let body = r#"<body data-emostream-page data-ingest-url="https://react.example">"#;
        assert!(told.html.contains(body));
        let policy = told.policy.to_str().unwrap();
        assert!(policy.contains("connect-src 'self' https://react.example ws: wss:;"));
    }
}
