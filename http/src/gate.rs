//! Who may come in: everybody, or those with a token (RFC 6750, RFC 7519).
//!
//! Invariant: a token is looked at and let go. It is in no log line, no answer, and nothing here can be
//! printed with it.

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
    token_key::{BadKey, BadToken, Claims, SECRET_BYTES, TokenKey},
};

/// Asks for tokens, or lets everybody in, which is the default.
///
/// ```
/// # use std::time::SystemTime;
/// # use emostream_http::Gate;
/// let pass = Gate::default().admit(None, SystemTime::now()).expect("it is open");
/// assert!(pass.is_for("anyone") && pass.opens("any-room"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Gate(Option<Arc<TokenKey>>);

/// What somebody who was let in may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Pass(Option<Claims>);

impl Gate {
    /// A gate for tokens that the key in `file` verifies: one line of text is an HS256 secret, PEM the
    /// public key of EdDSA, ES256 or RS256.
    pub fn with_key(file: &Path) -> Result<Self, BadKey> {
        Ok(Self(Some(Arc::new(TokenKey::read(file)?))))
    }

    /// What is weak about the key, for whoever runs the service; nothing if it is strong.
    pub fn weakness(&self) -> Option<String> {
        let guessable = self.0.as_ref().is_some_and(|key| key.is_guessable());
        guessable.then(|| {
            format!(
                "the HS256 secret has fewer than {SECRET_BYTES} bytes: whoever has one token can find it \
                 by trying, and be anybody; make a longer one by: openssl rand -base64 32"
            )
        })
    }

    /// Whether everybody may come in.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Lets the bearer of `token` in, or says 401.
    pub fn admit(&self, token: Option<&str>, now: SystemTime) -> Result<Pass, Problem> {
        let Some(key) = &self.0 else {
            return Ok(Pass(None));
        };
        let token = token.ok_or_else(missing)?;
        let claims = key.verify(token, now).map_err(refusal)?;
        Ok(Pass(Some(claims)))
    }
}

impl Pass {
    /// Whether its bearer is this user.
    pub fn is_for(&self, user: &str) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.sub == user)
    }

    /// Whether it opens this room. A claim that ends in `*` opens every room that begins with the rest.
    pub fn opens(&self, room: &str) -> bool {
        let rooms = self.0.as_ref().and_then(|claims| claims.rooms.as_deref());
        rooms.is_none_or(|rooms| {
            rooms.iter().any(|claimed| match claimed.strip_suffix('*') {
                Some(start) => room.starts_with(start),
                None => room == claimed,
            })
        })
    }

    /// Whether it opens every room.
    pub fn opens_all(&self) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.rooms.is_none())
    }

    /// How long from `now` on it is good; `None` for ever.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        self.0.as_ref().map(|claims| claims.left(now))
    }
}

/// The token of the one `Authorization: Bearer` header. Of two, a proxy before may have looked at the other.
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

fn refusal(bad: BadToken) -> Problem {
    let challenge = HeaderValue::from_static(r#"Bearer realm="emostream", error="invalid_token""#);
    Problem::new(StatusCode::UNAUTHORIZED, bad.to_string()).header(WWW_AUTHENTICATE, challenge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use serde_json::json;

    const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 asks for";

    fn gate() -> Gate {
        Gate(Some(Arc::new(TokenKey::new(SECRET.as_bytes()).unwrap())))
    }

    fn pass(rooms: Option<&[&str]>) -> Pass {
        let mut claims = json!({"sub": "u-17", "exp": 4e9});
        if let Some(rooms) = rooms {
            claims["rooms"] = json!(rooms);
        }
        let signs = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Default::default(), &claims, &signs).unwrap();
        gate().admit(Some(&token), SystemTime::now()).unwrap()
    }

    #[test]
    fn an_open_gate_asks_for_nothing() {
        let pass = Gate::default()
            .admit(Some("junk"), SystemTime::now())
            .unwrap();
        assert!(pass.is_for("anyone") && pass.opens("any") && pass.opens_all());
        assert_eq!(pass.left(SystemTime::now()), None);
    }

    #[test]
    fn a_pass_is_for_one_user() {
        let pass = pass(None);
        for (user, is) in [("u-17", true), ("u-1", false), ("U-17", false), ("", false)] {
            assert_eq!(pass.is_for(user), is, "{user}");
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
            assert_eq!(pass(claimed).opens(room), opens, "{claimed:?} {room}");
            assert_eq!(pass(claimed).opens_all(), claimed.is_none());
        }
    }

    #[test]
    fn a_refusal_challenges_and_repeats_nothing() {
        let challenge = |token| {
            let response = gate()
                .admit(token, SystemTime::now())
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
        let said = gate()
            .admit(Some("hunter2"), SystemTime::now())
            .unwrap_err();
        assert!(!said.text().contains("hunter2"));
        assert!(!format!("{said:?} {:?}", gate()).contains("hunter2"));
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
