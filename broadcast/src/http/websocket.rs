//! The WebSocket handshake (RFC 6455, section 4).

use emostream_http::{Problem, Request, Response};
use hyper::{
    Method, StatusCode, Version,
    body::Body as _,
    header::{
        CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tungstenite::handshake::derive_accept_key;

use crate::http::token;

/// Checks a handshake (RFC 6455, section 4.2.1). Returns a function that sets the status and the headers of the
/// response.
pub(super) fn handshake(
    request: &Request,
) -> Result<impl FnOnce(Response) -> Response + use<>, Problem> {
    let headers = request.headers();
    let has = |name: HeaderName, token: &str| {
        let values = headers
            .get_all(name)
            .into_iter()
            .filter_map(|v| v.to_str().ok());
        values
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(token))
    };
    if request.version() != Version::HTTP_11
        || request.method() != Method::GET
        || !has(UPGRADE, "websocket")
        || !has(CONNECTION, "upgrade")
    {
        let detail = "this path needs a WebSocket handshake: connect with ws:// or wss://, or use …/events for Server-Sent Events";
        return Err(Problem::new(StatusCode::UPGRADE_REQUIRED, detail)
            .header(UPGRADE, HeaderValue::from_static("websocket")));
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "only WebSocket version 13 is supported",
        )
        .header(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
    }
    if !request.body().is_end_stream() {
        // A body would be parsed as WebSocket frames, so the request is rejected.
        return Err(Problem::bad_request(
            "a WebSocket handshake must not have a body",
        ));
    }
    let accept = accept(headers)?;
    let subprotocol = token::subprotocol(headers);
    Ok(move |mut response: Response| {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let answer = response.headers_mut();
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        answer.extend(subprotocol.map(|selected| (SEC_WEBSOCKET_PROTOCOL, selected)));
        response
    })
}

fn accept(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let bad = || Problem::bad_request("Sec-WebSocket-Key must be 16 bytes in base64");
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(bad)?.as_bytes();
    // The Base64 encoding of 16 bytes has 22 digits and two characters of padding.
    let digits = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    let good = key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digits);
    let accept = good.then(|| derive_accept_key(key)).ok_or_else(bad)?;
    HeaderValue::try_from(accept).map_err(|_| bad())
}
