//! A JSON Web Key Set (JWKS, RFC 7517), and the choice of the key that verifies a token.
//!
//! ```text
//!  token with kid    ─▶ the keys of that kid and the token's alg ─┐
//!  token without kid ─▶ all keys of the token's alg ──────────────┴─▶ the first that verifies the signature
//! ```

use std::{fmt, time::SystemTime};

use serde::Deserialize;
use serde_json::Value;

use crate::middleware::auth::{
    claims::{Claims, InvalidToken, RequiredClaims},
    token_key::{Origin, TokenKey, UnusableJwk},
};

/// Maximum bytes of a key set, or of a key in PEM. Even a hundred RSA keys with their certificates are smaller.
pub(crate) const MAX_SET_BYTES: usize = 256 << 10;

/// Maximum number of keys with which a token is verified. Verifying a signature is the most expensive part of a
/// request, and every client can send tokens without `kid`. The limit is high enough, since issuers usually publish two
/// or three keys.
const MAX_TRIED_KEYS: usize = 8;

/// Maximum number of skipped keys that are logged one by one.
const MAX_LOGGED_KEYS: usize = 16;

/// Maximum characters of a `kid` in a log line.
const LOGGED_KID_CHARS: usize = 64;

/// The usable keys of a set.
#[derive(Debug)]
pub(crate) struct KeySet {
    /// The usable keys. The text of the set has at most [`MAX_SET_BYTES`], so a linear search is fast enough.
    keys: Vec<PublishedKey>,
    skipped: Vec<SkippedKey>,
}

#[derive(Debug)]
struct PublishedKey {
    kid: Option<String>,
    key: TokenKey,
}

/// A key of a set that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SkippedKey {
    kid: Option<String>,
    reason: UnusableJwk,
}

/// The reason why a text cannot be used as a key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeySet {
    /// The text is not a key set.
    #[error(r#"is not a JSON Web Key Set (JWKS): {{"keys":[…]}} with a JWK for each key"#)]
    NotASet,
    /// The key set has no key that can verify tokens.
    #[error("is a JSON Web Key Set without a usable key{0}")]
    NoUsableKey(FirstReason),
}

/// The reason why the first key of the set is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstReason(Option<SkippedKey>);

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl KeySet {
    /// Parses a set. Keys that cannot be used are skipped. A set without a usable key is an error.
    pub(crate) fn parse(
        text: &[u8],
        origin: Origin,
        required: &RequiredClaims,
    ) -> Result<Self, InvalidKeySet> {
        let published: Published =
            serde_json::from_slice(text).map_err(|_| InvalidKeySet::NotASet)?;
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for jwk in &published.keys {
            let kid = jwk["kid"].as_str().map(str::to_owned);
            match TokenKey::from_jwk(jwk, origin, required) {
                Ok(key) => keys.push(PublishedKey { kid, key }),
                Err(reason) => skipped.push(SkippedKey { kid, reason }),
            }
        }
        match keys.is_empty() {
            true => Err(InvalidKeySet::NoUsableKey(FirstReason(
                skipped.into_iter().next(),
            ))),
            false => Ok(Self { keys, skipped }),
        }
    }

    /// Returns the claims of a token that is valid at `now`. Returns [`InvalidToken::UnknownKey`] if the token has a
    /// `kid` that no key of the set has.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, InvalidToken> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| InvalidToken::Invalid)?;
        let kid = header.kid.as_deref();
        let is_named = |key: &&PublishedKey| kid.is_none() || key.kid.as_deref() == kid;
        if !self.keys.iter().any(|key| is_named(&key)) {
            return Err(InvalidToken::UnknownKey);
        }
        let fits = |key: &&PublishedKey| is_named(key) && key.key.algorithm() == header.alg;
        let candidates = self.keys.iter().filter(fits);
        if candidates.clone().nth(MAX_TRIED_KEYS).is_some() {
            return Err(InvalidToken::Ambiguous);
        }
        for candidate in candidates {
            match candidate.key.verify(token, now) {
                Err(InvalidToken::Invalid) => {}
                verified => return verified,
            }
        }
        Err(InvalidToken::Invalid)
    }

    /// Returns the number of usable keys.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the keys that are not used.
    pub(crate) fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Returns whether a key is a secret that can be guessed.
    pub(crate) fn has_guessable_key(&self) -> bool {
        self.keys.iter().any(|key| key.key.is_guessable())
    }
}

/// Returns one line for each skipped key, up to [`MAX_LOGGED_KEYS`], and one line with the number of the others.
pub(crate) fn describe_skipped(skipped: &[SkippedKey]) -> Vec<String> {
    let lines = skipped.iter().take(MAX_LOGGED_KEYS);
    let mut lines: Vec<String> = lines.map(SkippedKey::to_string).collect();
    if let rest @ 1.. = skipped.len().saturating_sub(MAX_LOGGED_KEYS) {
        lines.push(format!("{rest} more keys are skipped"));
    }
    lines
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = &self.reason;
        match &self.kid {
            Some(kid) => {
                let kid: String = kid.chars().take(LOGGED_KID_CHARS).collect();
                // `{:?}` quotes and escapes the kid, so that a kid with line breaks does not add log lines.
                write!(f, "the key with kid {kid:?} is skipped: {reason}")
            }
            None => write!(f, "a key without kid is skipped: {reason}"),
        }
    }
}

impl fmt::Display for FirstReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(skipped) => write!(f, " ({skipped})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
