//! Authenticates requests by bearer tokens (RFC 6750, RFC 7519), and decides which rooms their senders may access.
//!
//! Invariant: a token is not kept after it was verified. No log line, response or `Debug` output contains a token.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use prometheus::Registry;

use crate::{
    ClientTls, ClientTlsError, Problem, Readiness,
    middleware::auth::{
        claims::{Claims, InvalidToken, RequiredClaims},
        jwks_url::JwksUrl,
        key_file::{InvalidKey, KeyFile},
        remote_keys::{Refused, RemoteKeys},
    },
};

/// Verifies the tokens of requests. The default instance requires no token. Clones share the keys.
///
/// ```
/// # use std::time::SystemTime;
/// # use emostream_http::Authenticator;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let principal = Authenticator::default().authenticate(None, SystemTime::now()).await;
/// let principal = principal.expect("no token is required");
/// assert!(principal.is_user("anyone") && principal.can_access_room("any-room"));
/// # });
/// ```
#[derive(Debug, Clone, Default)]
pub struct Authenticator(Option<Arc<Verifier>>);

#[derive(Debug)]
struct Verifier {
    keys: Keys,
    required: RequiredClaims,
}

#[derive(Debug)]
enum Keys {
    File(KeyFile),
    Url(RemoteKeys),
}

/// The sender of an authenticated request: its user, and the rooms that it may access.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal(Option<Claims>);

impl Authenticator {
    /// Creates an instance that verifies tokens with the keys in `file`. The file contains an HS256 secret (one line of
    /// text), a public key for EdDSA, ES256 or RS256 (PEM), or a key set (JWKS, in JSON).
    pub fn from_key_file(file: &Path, required: RequiredClaims) -> Result<Self, InvalidKey> {
        let keys = Keys::File(KeyFile::read(file, &required)?);
        Ok(Self(Some(Arc::new(Verifier { keys, required }))))
    }

    /// Creates an instance that verifies tokens with the key set (JWKS) at `url`, which [`Authenticator::follow`]
    /// fetches. Returns an error if the system has no root certificates to verify an `https://` server with.
    pub fn from_jwks_url(url: JwksUrl, required: RequiredClaims) -> Result<Self, ClientTlsError> {
        let trust = match url.is_https() {
            true => Some(ClientTls::with_system_roots()?.named_by("SSL_CERT_FILE")),
            false => None,
        };
        let keys = Keys::Url(RemoteKeys::new(url, trust, required.clone()));
        Ok(Self(Some(Arc::new(Verifier { keys, required }))))
    }

    /// Starts the task that keeps the key set of a URL up to date for as long as the process runs. The task updates
    /// metrics, and the component `tokens` of the readiness. If the keys come from a file, or no token is required,
    /// this function does nothing. Call this function once, in a tokio runtime.
    pub fn follow(
        &self,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<(), prometheus::Error> {
        match self.0.as_deref() {
            Some(Verifier {
                keys: Keys::Url(keys),
                ..
            }) => keys.follow(registry, readiness),
            _ => Ok(()),
        }
    }

    /// Returns warnings about the keys of a file for the operator, one line each.
    pub fn warnings(&self) -> Vec<String> {
        match self.0.as_deref() {
            Some(Verifier {
                keys: Keys::File(keys),
                ..
            }) => keys.warnings(),
            _ => Vec::new(),
        }
    }

    /// Returns whether requests without a token are refused.
    pub fn requires_token(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the principal of `token`, or the response that refuses the request: 401, or 503 while the keys cannot be
    /// fetched. If the keys come from a URL, this function may wait some seconds for a fetch when the token has an
    /// unknown key.
    pub async fn authenticate(
        &self,
        token: Option<&str>,
        now: SystemTime,
    ) -> Result<Principal, Problem> {
        let Some(verifier) = self.0.as_deref() else {
            return Ok(Principal(None));
        };
        let token = token.ok_or_else(missing)?;
        let verified = match &verifier.keys {
            Keys::File(keys) => keys.verify(token, now).map_err(Refused::Token),
            Keys::Url(keys) => keys.verify(token, now).await,
        };
        match verified {
            Ok(claims) => Ok(Principal(Some(claims))),
            Err(refused) => Err(refusal(refused, &verifier.required)),
        }
    }
}

impl Principal {
    /// Returns whether the token was issued to this user, or no token is required.
    pub fn is_user(&self, user: &str) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.sub == user)
    }

    /// Returns whether the token gives access to this room, or no token is required. An entry of the claim `rooms` that
    /// ends in `*` gives access to all rooms whose names begin with the text before the `*`.
    pub fn can_access_room(&self, room: &str) -> bool {
        let rooms = self.0.as_ref().and_then(|claims| claims.rooms.as_deref());
        rooms.is_none_or(|rooms| {
            rooms.iter().any(|claimed| match claimed.strip_suffix('*') {
                Some(start) => room.starts_with(start),
                None => room == claimed,
            })
        })
    }

    /// Returns whether the token gives access to every room, or no token is required.
    pub fn can_access_all_rooms(&self) -> bool {
        self.0.as_ref().is_none_or(|claims| claims.rooms.is_none())
    }

    /// Returns the time from `now` until the token expires; `None` if no token is required.
    pub fn expires_in(&self, now: SystemTime) -> Option<Duration> {
        self.0.as_ref().map(|claims| claims.expires_in(now))
    }
}

/// Returns the token of the `Authorization: Bearer` header. If a request has two `Authorization` headers, both are
/// ignored, since a proxy may have checked only one of them.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = lines.next().filter(|_| lines.next().is_none())?;
    let (scheme, token) = line.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim_matches(' '))
}

fn missing() -> Problem {
    let detail = "a token is required; send it in one header Authorization: Bearer, or open EmoStream's own pages with \
                  #token=…";
    let challenge = HeaderValue::from_static(r#"Bearer realm="emostream""#);
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
}

fn refusal(refused: Refused, required: &RequiredClaims) -> Problem {
    let detail = match refused {
        Refused::NoKeys => {
            return Problem::unavailable(
                "the keys that verify tokens cannot be fetched at the moment; try again",
            );
        }
        Refused::Token(InvalidToken::OtherAudience) => {
            format!(
                "the token's aud is not one of {}",
                listed(&required.audiences)
            )
        }
        Refused::Token(InvalidToken::OtherIssuer) => {
            format!(
                "the token's iss is not one of {}",
                listed(&required.issuers)
            )
        }
        Refused::Token(invalid) => invalid.to_string(),
    };
    let challenge = HeaderValue::from_static(r#"Bearer realm="emostream", error="invalid_token""#);
    Problem::new(StatusCode::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
}

fn listed(accepted: &[String]) -> String {
    let quoted = accepted.iter().map(|one| format!("\"{one}\""));
    quoted.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::middleware::auth::testing::{SECRET, secret};
    use axum::response::IntoResponse;
    use serde_json::{Value, json};

    fn requiring(required: RequiredClaims) -> Authenticator {
        let keys = KeyFile::parse(SECRET.as_bytes(), &required).unwrap();
        let keys = Keys::File(keys);
        Authenticator(Some(Arc::new(Verifier { keys, required })))
    }

    fn authenticator() -> Authenticator {
        requiring(RequiredClaims::default())
    }

    async fn principal(rooms: Option<&[&str]>) -> Principal {
        let mut claims = json!({"sub": "u-17", "exp": 4e9});
        if let Some(rooms) = rooms {
            claims["rooms"] = json!(rooms);
        }
        let token = secret(SECRET).token(&claims);
        authenticator()
            .authenticate(Some(&token), SystemTime::now())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_token_for_another_service_is_refused_with_a_sentence_that_names_the_claim() {
        let text = |text: &str| text.to_owned();
        let authenticator = requiring(RequiredClaims {
            audiences: vec![text("emostream"), text("https://emo.example")],
            issuers: vec![text("https://id.example")],
        });
        let (aud, iss) = (json!("emostream"), json!("https://id.example"));
        let other_aud = r#"the token's aud is not one of "emostream", "https://emo.example""#;
        let other_iss = r#"the token's iss is not one of "https://id.example""#;
        for (aud, iss, detail) in [
            (aud.clone(), iss.clone(), None),
            (json!("https://emo.example"), iss.clone(), None),
            (json!(["other", "emostream"]), iss.clone(), None),
            (json!("other"), iss.clone(), Some(other_aud)),
            (json!("EMOSTREAM"), iss.clone(), Some(other_aud)),
            (json!(["other"]), iss.clone(), Some(other_aud)),
            (json!([]), iss.clone(), Some(other_aud)),
            (Value::Null, iss, Some("the token has no aud")),
            (aud.clone(), json!("https://id.example/"), Some(other_iss)),
            (aud, Value::Null, Some("the token has no iss")),
        ] {
            let mut claims = json!({"sub": "u-17", "exp": 4e9});
            for (name, value) in [("aud", &aud), ("iss", &iss)] {
                if !value.is_null() {
                    claims[name] = value.clone();
                }
            }
            let token = secret(SECRET).token(&claims);
            let now = SystemTime::now();
            match (authenticator.authenticate(Some(&token), now).await, detail) {
                (Ok(_), None) => {}
                (Err(problem), Some(detail)) => {
                    assert_eq!(problem.status(), StatusCode::UNAUTHORIZED);
                    assert!(
                        problem.detail().starts_with(detail),
                        "{claims}: {problem:?}"
                    );
                }
                (answer, _) => panic!("{claims}: {answer:?}"),
            }
        }
    }

    #[tokio::test]
    async fn no_token_is_required_by_default() {
        let principal = Authenticator::default()
            .authenticate(Some("junk"), SystemTime::now())
            .await
            .unwrap();
        assert!(
            principal.is_user("anyone")
                && principal.can_access_room("any")
                && principal.can_access_all_rooms()
        );
        assert_eq!(principal.expires_in(SystemTime::now()), None);
    }

    #[tokio::test]
    async fn a_principal_is_one_user() {
        let principal = principal(None).await;
        for (user, is) in [("u-17", true), ("u-1", false), ("U-17", false), ("", false)] {
            assert_eq!(principal.is_user(user), is, "{user}");
        }
    }

    #[tokio::test]
    async fn a_principal_can_access_the_rooms_that_its_token_names() {
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
            let principal = principal(claimed).await;
            assert_eq!(principal.can_access_room(room), opens, "{claimed:?} {room}");
            assert_eq!(principal.can_access_all_rooms(), claimed.is_none());
        }
    }

    #[tokio::test]
    async fn a_refusal_challenges_and_repeats_nothing() {
        let challenge = async |token| {
            let response = authenticator()
                .authenticate(token, SystemTime::now())
                .await
                .unwrap_err()
                .into_response();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap();
            challenge.to_owned()
        };
        assert_eq!(challenge(None).await, r#"Bearer realm="emostream""#);
        let refused = challenge(Some("hunter2")).await;
        assert_eq!(
            refused,
            r#"Bearer realm="emostream", error="invalid_token""#
        );
        let refused = authenticator()
            .authenticate(Some("hunter2"), SystemTime::now())
            .await
            .unwrap_err();
        assert!(!refused.text().contains("hunter2"));
        assert!(!format!("{refused:?} {:?}", authenticator()).contains("hunter2"));
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
