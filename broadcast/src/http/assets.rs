//! The pages, and the client module that they and other sites use. All files are compiled into the program.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use axum::{Router, routing::any};
use bytes::Bytes;
use emostream_http::{Body, Coding, Effort, Response};
use hyper::{
    HeaderMap, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
        IF_NONE_MATCH,
    },
};

use crate::config::IngestUrl;

/// Content-Security-Policy of the pages. It allows only files of this server and nothing inline, so text that a user
/// sends can never run as a script. The style of the custom element is a constructed style sheet, which the policy does
/// not restrict.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; \
                      object-src 'none'; base-uri 'none'; frame-ancestors 'self'";
const CONNECT: &str = "connect-src 'self'";

/// The tag into which [`Page::new`] inserts the settings of this server that the pages need.
const BODY: &str = "<body data-emostream-page";

const HTML: &str = "text/html; charset=utf-8";
const MODULE: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, content type and content of a file of `web/`.
macro_rules! file {
    ($path:literal, $kind:expr, $file:literal) => {
        ($path, $kind, include_str!(concat!("../../web/", $file)))
    };
}

/// Path, content type and content of each file.
const FILES: [(&str, &str, &str); 21] = [
    file!("/", HTML, "index.html"),
    file!("/dashboard", HTML, "dashboard.html"),
    file!("/style.css", STYLE, "style.css"),
    file!("/viewer.css", STYLE, "viewer.css"),
    file!("/dashboard.css", STYLE, "dashboard.css"),
    file!("/icon.svg", "image/svg+xml", "icon.svg"),
    // Modules that other sites import, too.
    file!("/emostream.js", MODULE, "emostream.js"),
    file!("/auto.js", MODULE, "auto.js"),
    file!("/emostream-room.js", MODULE, "emostream-room.js"),
    file!("/scoreboard.js", MODULE, "scoreboard.js"),
    file!("/delay.js", MODULE, "delay.js"),
    file!("/emotes.js", MODULE, "emotes.js"),
    file!("/swarms.js", MODULE, "swarms.js"),
    file!("/motion.js", MODULE, "motion.js"),
    file!("/mosaic.js", MODULE, "mosaic.js"),
    // Modules that only the two pages import.
    file!("/viewer.js", MODULE, "viewer.js"),
    file!("/demo.js", MODULE, "demo.js"),
    file!("/dashboard.js", MODULE, "dashboard.js"),
    file!("/chart.js", MODULE, "chart.js"),
    file!("/mood.js", MODULE, "mood.js"),
    file!("/dom.js", MODULE, "dom.js"),
];

/// Path of the icon that browsers request even if no page links to it.
const ICON: &str = "/favicon.ico";

/// A file, as this publisher serves it.
#[derive(Debug)]
struct File {
    path: &'static str,
    kind: HeaderValue,
    content: Bytes,
    /// The content, compressed by each of [`Coding::ALL`].
    encoded: Vec<(Coding, Bytes)>,
    tag: HeaderValue,
}

impl File {
    fn new(path: &'static str, kind: &'static str, content: Cow<'static, str>) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        // The tag is weak, since it is the same for all codings (RFC 9110, 8.8.1).
        let tag = format!("W/\"{:016x}\"", hasher.finish());
        let encode = |coding: Coding| (coding, coding.encode(content.as_bytes(), Effort::Once));
        let encoded = Coding::ALL.map(encode).into();
        Self {
            path,
            kind: HeaderValue::from_static(kind),
            content: Bytes::from(content.into_owned()),
            encoded,
            tag: HeaderValue::try_from(tag).expect("hexadecimal digits"),
        }
    }
}

/// The pages and their files, as this publisher serves them.
#[derive(Debug)]
pub(crate) struct Page {
    files: Vec<File>,
    policy: HeaderValue,
}

impl Page {
    /// Returns pages that send reactions to `ingest`. `None`: they send reactions to the server from which they were
    /// loaded. `demo_crowd` is whether the viewer page offers generated reactions.
    pub(crate) fn new(ingest: Option<&IngestUrl>, demo_crowd: bool) -> Self {
        let policy = match ingest {
            Some(IngestUrl(url)) => POLICY.replacen(CONNECT, &format!("{CONNECT} {url}"), 1),
            None => POLICY.to_owned(),
        };
        let mut body = BODY.to_owned();
        if let Some(IngestUrl(url)) = ingest {
            body.push_str(&format!(r#" data-ingest-url="{url}""#));
        }
        if demo_crowd {
            body.push_str(" data-demo");
        }
        let file = |(path, kind, content): (_, _, &'static str)| match kind {
            HTML => File::new(path, kind, content.replacen(BODY, &body, 1).into()),
            MODULE | STYLE => File::new(path, kind, compacted(content).into()),
            _ => File::new(path, kind, Cow::Borrowed(content)),
        };
        Self {
            files: FILES.into_iter().map(file).collect(),
            policy: HeaderValue::try_from(policy).expect("an origin is plain text"),
        }
    }

    /// Returns the routes of the files.
    pub(crate) fn router(self) -> Router {
        let page = Arc::new(self);
        let paths = FILES.iter().map(|(path, ..)| *path).chain([ICON]);
        paths.fold(Router::new(), |router, path| {
            let page = page.clone();
            let respond = async move |headers: HeaderMap| page.answer(path, &headers);
            router.route(path, any(respond))
        })
    }

    /// Returns a response with the file at `path`, or 304 if the browser has the newest version. The response for the
    /// icon is empty.
    pub(crate) fn answer(&self, path: &str, request: &HeaderMap) -> Response {
        let mut response = Response::new(Body::empty());
        let Some(file) = self.files.iter().find(|file| file.path == path) else {
            *response.status_mut() = StatusCode::NO_CONTENT;
            let day = HeaderValue::from_static("max-age=86400");
            response.headers_mut().insert(CACHE_CONTROL, day);
            return response;
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, file.kind.clone());
        // The files change when the program is updated, so a browser has to revalidate them each time. Usually the
        // response is 304.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(ETAG, file.tag.clone());
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        let sniffing = HeaderName::from_static("x-content-type-options");
        headers.insert(sniffing, HeaderValue::from_static("nosniff"));
        if has(request, &file.tag) {
            Coding::mark(None, headers);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        let coding = Coding::accepted(request);
        Coding::mark(coding, headers);
        let mut encoded = file.encoded.iter();
        let encoded = encoded.find(|(encoding, _)| Some(*encoding) == coding);
        let content = encoded.map_or(&file.content, |(_, bytes)| bytes);
        *response.body_mut() = Body::from(content.clone());
        response
    }
}

/// Returns a script or a style sheet without indentation, and without the comments that begin a line: up to its end, or
/// up to the code after a block comment. They are more than a third of the compressed bytes of the scripts. Empty lines
/// remain, so a line that a browser names has the same number in the source.
///
/// Other comments stay, since they need a parser. No line of a string or template may begin with `//` or `/*`, unless
/// that is a comment of a style sheet, and the white space before it must not matter.
fn compacted(source: &str) -> String {
    let mut served = String::with_capacity(source.len());
    let mut is_inside = false;
    for line in source.lines() {
        let mut code = line.trim_start();
        if is_inside || code.starts_with("/*") {
            let end = code.split_once("*/");
            is_inside = end.is_none();
            code = end.map_or("", |(_, code)| code.trim_start());
        } else if code.starts_with("//") {
            code = "";
        }
        served.push_str(code);
        served.push('\n');
    }
    served
}

/// Returns whether the browser has the version with this entity tag (RFC 9110, section 13.1.2).
fn has(request: &HeaderMap, tag: &HeaderValue) -> bool {
    let lines = request.get_all(IF_NONE_MATCH).into_iter();
    let mut tags = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tags.any(|known| {
        let known = known.trim_ascii();
        known == b"*" || opaque(known) == opaque(tag.as_bytes())
    })
}

/// Returns an entity tag without `W/`, since `If-None-Match` uses the weak comparison (RFC 9110, 8.8.3.2).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    fn html<'p>(page: &'p Page, path: &str) -> &'p str {
        let file = page.files.iter().find(|file| file.path == path).unwrap();
        std::str::from_utf8(&file.content).unwrap()
    }

    #[test]
    fn the_page_has_the_ingest_url_and_its_policy_allows_it() {
        let own = Page::new(None, false);
        assert!(!html(&own, "/").contains("data-ingest-url") && own.policy == POLICY);
        let url = "https://react.example".parse().unwrap();
        let with_ingest = Page::new(Some(&url), false);
        let body = r#"<body data-emostream-page data-ingest-url="https://react.example">"#;
        assert!(html(&with_ingest, "/").contains(body));
        let policy = with_ingest.policy.to_str().unwrap();
        assert!(policy.contains("connect-src 'self' https://react.example ws: wss:;"));
    }

    #[test]
    fn the_page_offers_a_demo_crowd_only_where_it_is_configured() {
        for offered in [false, true] {
            let page = Page::new(None, offered);
            let body = "<body data-emostream-page data-demo>";
            assert_eq!(html(&page, "/").contains(body), offered);
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_not_sent_it_again() {
        let page = Page::new(None, false);
        let status_of = |tags: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, tags.parse().unwrap());
            page.answer("/emostream.js", &headers).status()
        };
        let fresh = page.answer("/emostream.js", &HeaderMap::new());
        let tag = fresh.headers()[ETAG].to_str().unwrap().to_owned();
        assert_eq!(fresh.status(), 200);
        for known in [
            tag.clone(),
            tag.trim_start_matches("W/").to_owned(),
            format!("\"old\", {tag}"),
            "*".to_owned(),
        ] {
            assert_eq!(status_of(&known), 304, "{known}");
        }
        assert_eq!(status_of("\"old\""), 200);
        assert_ne!(
            page.answer("/viewer.js", &HeaderMap::new()).headers()[ETAG],
            *tag
        );
    }

    #[test]
    fn every_file_that_a_file_names_is_served() {
        for (path, _, content) in FILES {
            let names = content.split(['"', '\'']).filter(|text| {
                let plain = |c: char| c.is_ascii_alphanumeric() || "./-".contains(c);
                let local = text.starts_with('/') || text.starts_with("./");
                local && text.chars().all(plain) && text.contains(".")
            });
            for name in names.filter(|name| !name.ends_with('/')) {
                let name = name.trim_start_matches('.');
                let served = FILES.iter().any(|(served, ..)| *served == name);
                assert!(served, "{path} names {name}");
            }
        }
    }

    #[test]
    fn comments_that_begin_a_line_and_indentation_are_not_served() {
        let source = "/**\n * A module.\n */\n  const a = 1; // one\n  // two\n/* three */\n  /** four */ #b;\n\
                      const url = \"https://*/\";\n/* five\n   six */\nc();\n";
        let served = "\n\n\nconst a = 1; // one\n\n\n#b;\nconst url = \"https://*/\";\n\n\nc();\n";
        assert_eq!(compacted(source), served);
    }

    #[test]
    fn the_client_module_is_small_and_imports_nothing() {
        const BYTES: usize = 8_000;
        let page = Page::new(None, false);
        let client = page.files.iter().find(|file| file.path == "/emostream.js");
        let client = client.unwrap();
        let module = std::str::from_utf8(&client.content).unwrap();
        assert!(!module.lines().any(|line| line.starts_with("import ")));
        let gzip = client
            .encoded
            .iter()
            .find(|(coding, _)| *coding == Coding::Gzip);
        let bytes = gzip.unwrap().1.len();
        assert!(bytes <= BYTES, "{bytes} bytes");
    }
}
