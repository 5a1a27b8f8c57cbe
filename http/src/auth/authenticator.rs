//! Authenticates requests by bearer tokens (RFC 6750, RFC 7519), and says what their senders may access.
//!
//! Invariant: a token is not kept after it was verified. No log line, answer or `Debug` output contains one.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};

use crate::{
    Problem,
    auth::token_key::{Claims, InvalidKey, InvalidToken, SECRET_BYTES, TokenKey},
};

/// Requires tokens, or accepts every request, which is the default.
///
/// ```
/// # use std::time::SystemTime;
/// # use emostream_http::Authenticator;
/// let principal = Authenticator::default().authenticate(None, SystemTime::now()).expect("no token is required");
/// assert!(principal.is_user("anyone") && principal.can_access_room("any-room"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Authenticator(Option<Arc<TokenKey>>);

/// The sender of a request that was authenticated: which user it is, and which rooms it may access.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal(Option<Claims>);

impl Authenticator {
    /// An authenticator for tokens that the key in `file` verifies: one line of text is an HS256 secret, PEM the
    /// public key of EdDSA, ES256 or RS256.
    pub fn from_key_file(file: &Path) -> Result<Self, InvalidKey> {
        Ok(Self(Some(Arc::new(TokenKey::read(file)?))))
    }

    /// Returns what is weak about the key, as a warning for the operator.
    pub fn weakness(&self) -> Option<String> {
        let guessable = self.0.as_ref().is_some_and(|key| key.is_guessable());
        guessable.then(|| {
            format!(
                "the HS256 secret has fewer than {SECRET_BYTES} bytes: whoever has one token can find it \
                 by trying, and be anybody; make a longer one by: openssl rand -base64 32"
            )
        })
    }

    /// Whether requests without a token are refused.
    pub fn requires_token(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the bearer of `token`, or the 401 that refuses the request.
    pub fn authenticate(&self, token: Option<&str>, now: SystemTime) -> Result<Principal, Problem> {
        let Some(key) = &self.0 else {
            return Ok(Principal(None));
        };
        let token = token.ok_or_else(missing)?;
        let claims = key.verify(token, now).map_err(refusal)?;
        Ok(Principal(Some(claims)))
    }
}

impl Principal {
    /// Whether the token was issued to this user.
    pub fn is_user(&self, user: &str) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.sub == user)
    }

    /// Whether the token gives access to this room. A claim that ends in `*` stands for every room that begins with the
    /// rest.
    pub fn can_access_room(&self, room: &str) -> bool {
        let rooms = self.0.as_ref().and_then(|claims| claims.rooms.as_deref());
        rooms.is_none_or(|rooms| {
            rooms.iter().any(|claimed| match claimed.strip_suffix('*') {
                Some(start) => room.starts_with(start),
                None => room == claimed,
            })
        })
    }

    /// Whether the token gives access to every room.
    pub fn can_access_all_rooms(&self) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.rooms.is_none())
    }

    /// How long the token is valid from `now` on; `None` if no token is required.
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        self.0.as_ref().map(|claims| claims.expires_in(now))
    }
}

/// Returns the token of the only `Authorization: Bearer` header. Of two headers neither is used, since a proxy may have
/// checked the other one.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    let (scheme, token) = line.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim_matches(' '))
}

fn missing() -> Problem {
    let detail = "a token is asked for here; send it by one header Authorization: Bearer, or open EmoStream's own \
                  pages with #token=…";
    let challenge = HeaderValue::from_static(r#"Bearer realm="emostream""#);
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
}

fn refusal(bad: InvalidToken) -> Problem {
    let challenge = HeaderValue::from_static(r#"Bearer realm="emostream", error="invalid_token""#);
    Problem::new(StatusCode::UNAUTHORIZED, bad.to_string()).header(WWW_AUTHENTICATE, challenge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use serde_json::json;

    const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 asks for";

    fn authenticator() -> Authenticator {
        Authenticator(Some(Arc::new(TokenKey::new(SECRET.as_bytes()).unwrap())))
    }

    fn principal(rooms: Option<&[&str]>) -> Principal {
        let mut claims = json!({"sub": "u-17", "exp": 4e9});
        if let Some(rooms) = rooms {
            claims["rooms"] = json!(rooms);
        }
        let signs = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Default::default(), &claims, &signs).unwrap();
        authenticator()
            .authenticate(Some(&token), SystemTime::now())
            .unwrap()
    }

    #[test]
    fn an_open_gate_asks_for_nothing() {
        let principal = Authenticator::default()
            .authenticate(Some("junk"), SystemTime::now())
            .unwrap();
        assert!(
            principal.is_user("anyone")
                && principal.can_access_room("any")
                && principal.can_access_all_rooms()
        );
        assert_eq!(principal.expires_in(SystemTime::now()), None);
    }

    #[test]
    fn a_pass_is_for_one_user() {
        let principal = principal(None);
        for (user, is) in [("u-17", true), ("u-1", false), ("U-17", false), ("", false)] {
            assert_eq!(principal.is_user(user), is, "{user}");
        }
    }

    #[test]
    fn a_pass_opens_the_rooms_it_names() {
        for (claimed, room, opens) in [
            (None, "match-7", true),
            (Some(&["match-7", "lobby"][..]), "match-7", true),
            (Some(&["match-7", "lobby"]), "lobby", true),
            (Some(&["match-7"]), "match-70", false),
            (Some(&["match-7"]), "Match-7", false),
            (Some(&["match-*"]), "match-70", true),
            (Some(&["match-*"]), "match-", true),
            (Some(&["match-*"]), "match", false),
            (Some(&["*"]), "any", true),
            (Some(&["m*h"]), "match", false),
            (Some(&[]), "default", false),
        ] {
            assert_eq!(
                principal(claimed).can_access_room(room),
                opens,
                "{claimed:?} {room}"
            );
            assert_eq!(principal(claimed).can_access_all_rooms(), claimed.is_none());
        }
    }

    #[test]
    fn a_refusal_challenges_and_repeats_nothing() {
        let challenge = |token| {
            let response = authenticator()
                .authenticate(token, SystemTime::now())
                .unwrap_err()
                .into_response();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
            challenge.to_owned()
        };
        assert_eq!(challenge(None), r#"Bearer realm="emostream""#);
        let refused = challenge(Some("hunter2"));
        assert_eq!(
            refused,
            r#"Bearer realm="emostream", error="invalid_token""#
        );
        let said = authenticator()
            .authenticate(Some("hunter2"), SystemTime::now())
            .unwrap_err();
        assert!(!said.text().contains("hunter2"));
        assert!(!format!("{said:?} {:?}", authenticator()).contains("hunter2"));
    }

    #[test]
    fn a_bearer_s_token_is_read_whatever_the_case_of_the_scheme() {
        for (value, token) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c ", Some("a.b.c")),
            ("Bearer", None),
            ("Basic YTpi", None),
            ("a.b.c", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            assert_eq!(bearer(&headers), token, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
        let mut two = HeaderMap::new();
        two.append(AUTHORIZATION, "Bearer a.b.c".parse().unwrap());
        two.append(AUTHORIZATION, "Bearer a.b.c".parse().unwrap());
        assert_eq!(bearer(&two), None);
    }
}
