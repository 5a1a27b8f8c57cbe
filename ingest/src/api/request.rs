//! The head of a request: its path, its content type, and whether the client waits until the reactions are stored.

use emostream_http::Problem;
use emostream_model::FieldNames;
use hyper::{
    HeaderMap, StatusCode, Uri,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue},
};

use crate::config::MAX_REQUEST_REACTIONS;

/// The HTTP methods that all [`PATHS`] support.
pub(crate) const METHODS: &str = "POST, OPTIONS";

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Length of the smallest valid reaction, in bytes: `{"user":1,"emoji":"x"}`, where `x` is the shortcode of ❌.
const SMALLEST_REACTION_BYTES: u64 = 22;

/// The API that a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiFlavor {
    /// The API at `/v1/reactions`.
    V1,
    /// The API at `/send_emoji` and its aliases, for clients that were written for common Flask servers.
    Flask,
}

/// The event after which the response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The reactions are in the buffer.
    Buffered,
    /// The log has acknowledged the reactions.
    Stored,
}

/// The paths that accept reactions, each with its API.
pub(crate) const PATHS: [(&str, ApiFlavor); 4] = [
    ("/v1/reactions", ApiFlavor::V1),
    ("/send_emoji", ApiFlavor::Flask),
    ("/send-emoji", ApiFlavor::Flask),
    ("/emoji", ApiFlavor::Flask),
];

impl ApiFlavor {
    /// Returns the field names of reactions.
    pub(crate) fn names(self) -> FieldNames {
        match self {
            Self::V1 => FieldNames::V1,
            Self::Flask => FieldNames::WithAliases,
        }
    }
}

impl Wait {
    /// Returns when the response is sent, as requested by `?wait=stored` or by `Prefer: wait` (RFC 7240). The number of
    /// seconds in `Prefer: wait=10` is ignored, since the timeout of the log applies.
    pub(crate) fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let pairs = uri.query().unwrap_or_default().split('&');
        let mut values = pairs.filter_map(|pair| match pair.split_once('=') {
            Some(("wait", value)) => Some(value),
            None if pair == "wait" => Some(""),
            _ => None,
        });
        match values.next_back() {
            Some("stored") => Ok(Self::Stored),
            Some(_) => Err(Problem::bad_request(
                "the only value of wait is stored: ?wait=stored",
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

/// Returns 415 if the body is compressed, or if its content type is neither JSON nor plain text, which
/// `navigator.sendBeacon` sends. A body without a content type is parsed as JSON.
pub(crate) fn check_content(headers: &HeaderMap) -> Result<(), Problem> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "compressed bodies are not accepted; send uncompressed JSON";
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
    let detail = format!("{essence} is not accepted; send application/json or text/plain{hint}");
    let accepted = HeaderValue::from_static("application/json, text/plain");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).header(ACCEPT, accepted))
}

/// Returns the maximum number of reactions in a body of this length, or of an unknown length (`None`).
pub(crate) fn max_reactions(body_bytes: Option<u64>) -> u32 {
    let reactions = body_bytes.map_or(u64::MAX, |bytes| bytes / SMALLEST_REACTION_BYTES + 1);
    reactions.min(MAX_REQUEST_REACTIONS as u64) as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::api::body::ReactionRequest;
    use emostream_model::EmojiNames;

    fn header(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn waiting_is_requested_by_query_or_by_preference() {
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
    fn json_and_plain_text_are_accepted_and_other_types_are_415() {
        for accepted in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/cloudevents+json",
            "text/plain;charset=UTF-8",
        ] {
            assert_eq!(
                check_content(&header("content-type", accepted)),
                Ok(()),
                "{accepted}"
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
    fn no_body_has_more_reactions_than_its_length_allows() {
        let smallest = r#"{"user":1,"emoji":"x"}"#;
        for count in 1..=1000 {
            let body = format!("[{}]", vec![smallest; count].join(","));
            let read = ReactionRequest::parse(
                body.as_bytes(),
                &EmojiNames::default(),
                FieldNames::WithAliases,
            );
            assert_eq!(read.unwrap().valid.len(), count);
            assert!(
                max_reactions(Some(body.len() as u64)) as usize >= count,
                "{count}"
            );
        }
        assert!(max_reactions(Some(smallest.len() as u64)) >= 1);
        assert_eq!(max_reactions(None), 1000);
        assert_eq!(max_reactions(Some(u64::MAX)), 1000);
    }
}
