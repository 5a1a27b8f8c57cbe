//! The claims of a token, and the claims that every token must have.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer};

/// Maximum difference between the clock of the tokens' issuer and the clock of this host.
pub(crate) const LEEWAY: Duration = Duration::from_secs(5);

/// The claims that every token must have, besides `sub` and `exp`. By default, none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequiredClaims {
    /// The accepted audiences: the claim `aud` must contain at least one of them. If the list is empty, `aud` is not
    /// checked.
    pub audiences: Vec<String>,
    /// The accepted issuers: the claim `iss` must be one of them. If the list is empty, `iss` is not checked.
    pub issuers: Vec<String>,
}

/// The reason why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidToken {
    #[error(
        "invalid token: it is not a JWT with sub and exp that is signed with a key and the algorithm of this server"
    )]
    Invalid,
    #[error("no key of this server has the kid of the token")]
    UnknownKey,
    #[error("too many keys of this server match the token; the token needs a kid")]
    Ambiguous,
    #[error("the token has no {0}, which is required")]
    Without(&'static str),
    #[error("the token's {claim} is not {expected}; omit a claim that has no value")]
    Claim {
        claim: &'static str,
        expected: &'static str,
    },
    #[error("the token's aud is not one that this server accepts")]
    OtherAudience,
    #[error("the token's iss is not one that this server accepts")]
    OtherIssuer,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
}

/// The claims of a token that was verified.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims {
    /// The user to whom the token was issued.
    pub(crate) sub: String,
    exp: f64,
    /// The rooms that the bearer may access. `None` (all rooms) if the token has no such claim.
    pub(crate) rooms: Option<Vec<String>>,
}

/// The claims that this program reads, in the form that they have in a token. `aud` and `iss` are not among them, since
/// the crate jsonwebtoken checks these.
#[derive(Deserialize)]
pub(super) struct RawClaims {
    #[serde(default, deserialize_with = "given")]
    sub: Option<String>,
    /// Seconds since the epoch; fractions are allowed (RFC 7519, NumericDate).
    #[serde(default, deserialize_with = "given")]
    exp: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    rooms: Option<Vec<String>>,
}

/// Parses a claim that the token contains. `null` is an error, since `"rooms": null` would otherwise give access to
/// every room.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

impl Claims {
    /// Checks the claims of a token whose signature is valid.
    pub(super) fn check(raw: RawClaims, now: SystemTime) -> Result<Self, InvalidToken> {
        let claims = Self {
            sub: raw.sub.ok_or(InvalidToken::Without("sub"))?,
            exp: raw.exp.ok_or(InvalidToken::Without("exp"))?,
            rooms: raw.rooms,
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (now, leeway) = (now.as_secs_f64(), LEEWAY.as_secs_f64());
        if claims.exp + leeway <= now {
            return Err(InvalidToken::Expired);
        }
        if raw.nbf.is_some_and(|nbf| nbf > now + leeway) {
            return Err(InvalidToken::Early);
        }
        Ok(claims)
    }

    /// Returns the time from `now` until the token is refused, including the leeway.
    pub(crate) fn expires_in(&self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.exp - now.as_secs_f64();
        let left = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX);
        left.saturating_add(LEEWAY)
    }
}
