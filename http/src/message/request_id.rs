//! Request ids. If the client has sent a valid id, the request has this id. Otherwise the request has a random id.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// The header with the id of a request. The client, proxies and our log use the same id.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum bytes of an id that a client sends. There is a limit since the id is repeated in the response and in the
/// log. A UUID has 36 bytes, and the trace ids of proxies have up to 100.
const REQUEST_ID_BYTES: usize = 128;

/// Returns the client's id if it is short and has only characters that are safe in a log line, otherwise a random id.
pub(crate) fn request_id(request: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=/+@".contains(byte);
    let valid = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(plain)
    };
    match request.get(REQUEST_ID).filter(valid) {
        Some(id) => id.clone(),
        None => HeaderValue::try_from(random())
            .unwrap_or_else(|_| unreachable!("hexadecimal digits are a valid header value")),
    }
}

/// Returns a random id, for a request without a valid one.
pub(crate) fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn an_id_of_the_client_is_kept_if_it_is_short_and_plain() {
        let given = |id: &str| {
            let id = HeaderValue::from_bytes(id.as_bytes()).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, id)]))
        };
        for id in [
            "b3a1c2d4-0000-4000-8000-0123456789ab",
            "Root=1-67891233-abcdef012345678912345678",
            "x",
        ] {
            assert_eq!(given(id), id);
        }
        let long = "x".repeat(REQUEST_ID_BYTES + 1);
        for id in ["", "a b", "a\"b", "é", &long] {
            let made = given(id);
            assert_ne!(made, id);
            assert_eq!(made.as_bytes().len(), 16);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
