//! Finds the token of a subscriber. Not every client can set a header, so a token may be in one of three places:
//!
//! | client | where |
//! |---|---|
//! | a program | `Authorization: Bearer …` |
//! | a browser's `WebSocket` | the subprotocols `emostream` and `emostream.token.…`, of which the first is selected |
//! | a browser's `EventSource` | `?token=…` |
//!
//! A proxy may log the URL, so a token in the URL is used only if there is no other.

use emostream_http::bearer;
use hyper::{
    HeaderMap, Uri,
    header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};

use crate::http::parameters::parameter;

/// The WebSocket subprotocol that the server selects. docs/reference/stream-protocol.md describes its messages.
const SUBPROTOCOL: &str = "emostream";

/// The prefix of a token that is offered as a subprotocol.
const TOKEN_PREFIX: &str = "emostream.token.";

/// Returns the token of a request, if it has one.
pub(crate) fn find<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    bearer(headers)
        .or_else(|| offered(headers).find_map(|offer| offer.strip_prefix(TOKEN_PREFIX)))
        .or_else(|| parameter(uri, "token"))
}

/// Returns the subprotocol to select. If a browser has offered subprotocols and the server selects none of them, the
/// browser does not connect. The subprotocol with the token is never selected, so that the response does not contain
/// the token.
pub(crate) fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let ours = offered(headers).any(|offer| offer == SUBPROTOCOL);
    ours.then(|| HeaderValue::from_static(SUBPROTOCOL))
}

fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_token_is_found_in_a_header_a_subprotocol_or_the_query() {
        let protocol = ("sec-websocket-protocol", "emostream, emostream.token.b.b.b");
        let none = ("x", "");
        for (headers, uri, found) in [
            (
                [("authorization", "Bearer a.a.a"), protocol],
                "/x?token=c",
                "a.a.a",
            ),
            ([("authorization", "bearer  a.a.a "), none], "/x", "a.a.a"),
            (
                [("authorization", "Basic YTpi"), protocol],
                "/x?token=c",
                "b.b.b",
            ),
            ([none, none], "/x?since=1-2&token=c.c.c", "c.c.c"),
            ([none, none], "/x?since=1-2", ""),
            ([("authorization", "a.a.a"), none], "/x", ""),
            ([("sec-websocket-protocol", "emostream"), none], "/x", ""),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(name, value.parse().unwrap());
            }
            let uri = uri.parse().unwrap();
            assert_eq!(
                find(&uri, &map).unwrap_or_default(),
                found,
                "{headers:?} {uri}"
            );
        }
    }

    #[test]
    fn the_selected_subprotocol_is_never_the_token() {
        for (offer, spoken) in [
            ("emostream, emostream.token.a.b.c", Some("emostream")),
            ("emostream.token.a.b.c,emostream", Some("emostream")),
            ("emostream.token.a.b.c", None),
            ("chat", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
            let expected = spoken.map(HeaderValue::from_static);
            assert_eq!(subprotocol(&headers), expected, "{offer}");
        }
    }
}
