//! Where a subscriber's token may be: not every client can set a header.
//!
//! | client | where |
//! |---|---|
//! | a program | `Authorization: Bearer …` |
//! | a browser's `WebSocket` | the subprotocols `emostream` and `emostream.token.…`, of which the first is selected |
//! | a browser's `EventSource` | `?token=…` |
//!
//! A URL may be logged by a proxy, so it is read last.

use emostream_http::bearer;
use hyper::{
    HeaderMap, Uri,
    header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};

use crate::http::parameters::parameter;

/// The subprotocol that is selected: ours, whose messages README describes.
const SUBPROTOCOL: &str = "emostream";

/// The prefix of a token that is offered as a subprotocol.
const TOKEN_PREFIX: &str = "emostream.token.";

/// The token of a request, if it has one.
pub(crate) fn find<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    bearer(headers)
        .or_else(|| offered(headers).find_map(|offer| offer.strip_prefix(TOKEN_PREFIX)))
        .or_else(|| parameter(uri, "token"))
}

/// The subprotocol to select. A browser that has offered some does not connect if none is selected; the one with the
/// token is never selected, so that the answer does not contain the token.
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn a_token_stands_in_a_header_a_subprotocol_or_the_address() {
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
    fn the_token_is_never_the_subprotocol_that_is_spoken() {
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
