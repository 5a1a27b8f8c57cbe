//! What a request asks for, as far as its head says it.

use emostream_http::Problem;
use emostream_model::FieldNames;
use hyper::{
    HeaderMap, StatusCode, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue},
};

use crate::config::MAX_REQUEST_REACTIONS;

/// The methods of every path here.
pub(crate) const METHODS: &str = "POST, OPTIONS";

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// The bytes of the smallest valid reaction, with the shortcode of ❌: `{"user":1,"emoji":"x"}`.
const SMALLEST_REACTION_BYTES: u64 = 22;

/// In which of its two dialects a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/v1/reactions`.
    Own,
    /// `/send_emoji` and the like: made for clients of the usual Flask servers.
    Flask,
}

/// When a client wants its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// As soon as its reactions are in the buffer.
    Buffered,
    /// Once the log has acknowledged them.
    Stored,
}

/// The paths that accept reactions, each with its dialect.
pub(crate) const PATHS: [(&str, Dialect); 4] = [
    ("/v1/reactions", Dialect::Own),
    ("/send_emoji", Dialect::Flask),
    ("/send-emoji", Dialect::Flask),
    ("/emoji", Dialect::Flask),
];

impl Dialect {
    /// The field names of its reactions.
    pub(crate) fn names(self) -> FieldNames {
        match self {
            Self::Own => FieldNames::V1,
            Self::Flask => FieldNames::WithAliases,
        }
    }
}

impl Wait {
    /// `?wait=stored`, or `Prefer: wait` (RFC 7240, whose seconds are not looked at: the log's own
    /// time limit decides).
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let pairs = uri.query().unwrap_or_default().split('&');
        let mut asked = pairs.filter_map(|pair| match pair.split_once('=') {
            Some(("wait", value)) => Some(value),
            None if pair == "wait" => Some(""),
            _ => None,
        });
        match asked.next_back() {
            Some("stored") => Ok(Self::Stored),
            Some(_) => Err(Problem::bad_request(
                "wait takes only one value: ?wait=stored",
            )),
            None if prefers_waiting(headers) => Ok(Self::Stored),
            None => Ok(Self::Buffered),
        }
    }
}

fn prefers_waiting(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(PREFER).iter();
    let preferences = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    let mut names = preferences.filter_map(|preference| preference.split([';', '=']).next());
    names.any(|name| name.trim().eq_ignore_ascii_case("wait"))
}

/// 415 unless the body claims to be JSON, or plain text (`navigator.sendBeacon`), and is not
/// compressed. A body that claims nothing is taken as JSON.
pub(crate) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "compressed bodies are not taken; send the JSON as it is";
        let identity = HeaderValue::from_static("identity");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
            .header(ACCEPT_ENCODING, identity));
    }
    let Some(content) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    if content.as_bytes() == b"application/json" {
        return Ok(());
    }
    let content = String::from_utf8_lossy(content.as_bytes());
    let essence = content.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    if matches!(&*essence, "" | "application/json" | "text/plain") || essence.ends_with("+json") {
        return Ok(());
    }
    let hint = if essence == "application/x-www-form-urlencoded" {
        "; with curl, add -H 'content-type: application/json'"
    } else {
        ""
    };
    let essence: String = essence.chars().take(80).collect();
    let detail = format!("{essence} is not taken; send application/json or text/plain{hint}");
    let accepted = HeaderValue::from_static("application/json, text/plain");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).header(ACCEPT, accepted))
}

/// The most reactions that a body of this length can hold; of an unknown length, if it is `None`.
pub(crate) fn most_reactions(body_bytes: Option<u64>) -> u32 {
    let most = body_bytes.map_or(u64::MAX, |bytes| bytes / SMALLEST_REACTION_BYTES + 1);
    most.min(MAX_REQUEST_REACTIONS as u64) as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use crate::api::body::Submissions;
    use emostream_model::EmojiNames;

    fn header(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn waiting_is_asked_for_by_query_or_by_preference() {
        let none = HeaderMap::new();
        let wait = |uri: &str, headers: &HeaderMap| {
            Wait::of(&uri.parse().unwrap(), headers).map_err(|problem| problem.status())
        };
        assert_eq!(wait("/v1/reactions", &none), Ok(Wait::Buffered));
        assert_eq!(
            wait("/v1/reactions?x=1&wait=stored", &none),
            Ok(Wait::Stored)
        );
        for bad in ["/?wait", "/?wait=", "/?wait=10", "/?wait=stored&wait=no"] {
            assert_eq!(wait(bad, &none), Err(StatusCode::BAD_REQUEST), "{bad}");
        }
        for (value, expected) in [
            ("wait", Wait::Stored),
            ("respond-async, Wait=10", Wait::Stored),
            ("wait; foo=bar", Wait::Stored),
            ("respond-async", Wait::Buffered),
            ("waiting", Wait::Buffered),
            ("foo=wait", Wait::Buffered),
        ] {
            assert_eq!(wait("/", &header("prefer", value)), Ok(expected), "{value}");
        }
    }

    #[test]
    fn json_and_plain_text_are_taken_and_the_rest_is_told_what_is() {
        for taken in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/cloudevents+json",
            "text/plain;charset=UTF-8",
        ] {
            assert_eq!(
                check_content(&header("content-type", taken)),
                Ok(()),
                "{taken}"
            );
        }
        assert_eq!(check_content(&HeaderMap::new()), Ok(()));
        let form = "application/x-www-form-urlencoded";
        let problem = check_content(&header("content-type", form)).unwrap_err();
        assert_eq!(problem.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(
            problem
                .detail()
                .contains("-H 'content-type: application/json'")
        );
        assert!(check_content(&header("content-type", "text/html")).is_err());
        assert!(check_content(&header("content-encoding", "gzip")).is_err());
        assert!(check_content(&header("content-encoding", "identity")).is_ok());
    }

    #[test]
    fn no_body_holds_more_reactions_than_were_reserved_for_it() {
        let smallest = r#"{"user":1,"emoji":"x"}"#;
        for count in 1..=1000 {
            let body = format!("[{}]", vec![smallest; count].join(","));
            let read = Submissions::read(
                body.as_bytes(),
                &EmojiNames::default(),
                FieldNames::WithAliases,
            );
            assert_eq!(read.unwrap().good.len(), count);
            assert!(
                most_reactions(Some(body.len() as u64)) as usize >= count,
                "{count}"
            );
        }
        assert!(most_reactions(Some(smallest.len() as u64)) >= 1);
        assert_eq!(most_reactions(None), 1000);
        assert_eq!(most_reactions(Some(u64::MAX)), 1000);
    }
}
