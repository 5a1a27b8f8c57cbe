//! The key that tokens are verified with: what `--jwt-key` names.
//!
//! ```text
//!  the file ──PEM?──yes─▶ Ed25519 ▶ EdDSA │ RSA ▶ RS256 │ P-256 ▶ ES256
//!                └──no──▶ one line of text ▶ HS256
//! ```
//!
//! Invariant: a key has one algorithm, and a token's header never chooses another. So `none` is never
//! taken, nor a public key as the secret of an HS256 signature.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    VerificationAlgorithm,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// How far the clocks of who issues tokens and of this machine may be apart.
pub(crate) const LEEWAY: Duration = Duration::from_secs(5);

/// RFC 7518 (3.2) asks for as many bits as the hash has.
///
/// A shorter secret is taken all the same, since whoever issues the tokens has chosen it, and a rehearsal may
/// do with `secret`; but who serves with it is warned ([`TokenKey::is_guessable`]).
pub(crate) const SECRET_BYTES: usize = 32;

/// The largest key is a few KB in PEM; a file that is longer is another one.
const FILE_BYTES: u64 = 64 << 10;

/// Verifies tokens.
pub(crate) struct TokenKey {
    key: DecodingKey,
    rules: Validation,
    algorithm: Algorithm,
    guessable: bool,
}

/// Why a file is no key for tokens. None of the sentences repeats what is in it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    /// It cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is empty, or as good as.
    #[error("the file is empty; put an HS256 secret or a PEM public key into it")]
    Empty,
    /// It is longer than any key.
    #[error("the file is no key: it has more than {FILE_BYTES} bytes")]
    Long,
    /// Neither PEM nor a line of text.
    #[error("the file holds neither a PEM public key nor an HS256 secret: one line of text")]
    NotText,
    /// A key in a form that is public, or has other fields: never to be taken as a secret.
    #[error("JWK and SSH keys are not taken; give a public key in PEM (BEGIN PUBLIC KEY)")]
    OtherForm,
    /// What only the issuer of tokens may have.
    #[error(
        "this is a private key, which only the issuer of tokens needs; give the public one: \
         openssl pkey -in FILE -pubout"
    )]
    Private,
    /// A certificate, whose own validity nobody would look at.
    #[error(
        "this PEM is no public key; out of a certificate it comes by: \
         openssl x509 -in FILE -noout -pubkey"
    )]
    NotPublic,
    /// Another kind of key, or a broken one.
    #[error(
        "the public key is none of Ed25519 (EdDSA), P-256 (ES256) and RSA of 2048 to 8192 bits (RS256)"
    )]
    Unknown,
}

/// Why a token is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidToken {
    #[error(
        "the token is no JWT with sub and exp that is signed by the key and the algorithm of this server"
    )]
    Invalid,
    #[error("the token has no {0}; it is asked for here")]
    Without(&'static str),
    #[error("the token's {claim} is not {expected}; leave a claim out that says nothing")]
    Claim {
        claim: &'static str,
        expected: &'static str,
    },
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    Early,
}

/// What a token says of its bearer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claims {
    /// Who it is.
    pub(crate) sub: String,
    exp: f64,
    /// Which rooms are open to the bearer; all if there is no such claim.
    pub(crate) rooms: Option<Vec<String>>,
}

/// The claims that are looked at, as they come.
#[derive(Deserialize)]
struct RawClaims {
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

/// A claim that is there has to be of its type: `null` would otherwise open every room.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

impl TokenKey {
    /// Reads the key in a file.
    pub(crate) fn read(file: &Path) -> Result<Self, InvalidKey> {
        let mut bytes = Vec::new();
        File::open(file)?
            .take(FILE_BYTES + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES {
            return Err(InvalidKey::Long);
        }
        Self::new(&bytes)
    }

    /// The key that is written so.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, InvalidKey> {
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidKey::NotText)?;
        let text = text.trim_start_matches('\u{feff}');
        if text.contains("-----BEGIN") {
            return Self::public(text);
        }
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.trim().is_empty() {
            return Err(InvalidKey::Empty);
        }
        if secret.starts_with(['{', '[']) || secret.starts_with("ssh-") {
            return Err(InvalidKey::OtherForm);
        }
        if secret.chars().any(char::is_control) {
            return Err(InvalidKey::NotText);
        }
        let key = DecodingKey::from_secret(secret.as_bytes());
        Ok(Self {
            guessable: secret.len() < SECRET_BYTES,
            ..Self::with(key, Algorithm::HS256)
        })
    }

    fn public(pem: &str) -> Result<Self, InvalidKey> {
        if pem.contains("PRIVATE KEY-----") {
            return Err(InvalidKey::Private);
        }
        if !pem.contains("-----BEGIN PUBLIC KEY-----")
            && !pem.contains("-----BEGIN RSA PUBLIC KEY-----")
        {
            return Err(InvalidKey::NotPublic);
        }
        let pem = pem.as_bytes();
        let known: [(_, Algorithm, &'static dyn VerificationAlgorithm); 3] = [
            (DecodingKey::from_ed_pem(pem), Algorithm::EdDSA, &ED25519),
            (
                DecodingKey::from_ec_pem(pem),
                Algorithm::ES256,
                &ECDSA_P256_SHA256_FIXED,
            ),
            (
                DecodingKey::from_rsa_pem(pem),
                Algorithm::RS256,
                &RSA_PKCS1_2048_8192_SHA256,
            ),
        ];
        for (key, algorithm, verification) in known {
            if let Ok(key) = key
                && is_good(&key, algorithm, verification)
            {
                return Ok(Self::with(key, algorithm));
            }
        }
        Err(InvalidKey::Unknown)
    }

    fn with(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut rules = Validation::new(algorithm);
        // The claims are looked at below, where the time is passed in.
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        rules.validate_aud = false;
        Self {
            key,
            rules,
            algorithm,
            guessable: false,
        }
    }

    /// Whether it is a secret so short that its tokens give it away to whoever tries all there are.
    pub(crate) fn is_guessable(&self) -> bool {
        self.guessable
    }

    /// The claim that has kept a token from being read, if its signature is good.
    fn wrong_claim(&self, token: &str) -> InvalidToken {
        let Ok(token) = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.rules)
        else {
            return InvalidToken::Invalid;
        };
        let is_list: fn(&Value) -> bool = |value| {
            let list = value.as_array();
            list.is_some_and(|list| list.iter().all(Value::is_string))
        };
        let claims = [
            ("sub", "text", Value::is_string as fn(&Value) -> bool),
            ("exp", "a number of seconds", Value::is_number),
            ("nbf", "a number of seconds", Value::is_number),
            ("rooms", "a list of text", is_list),
        ];
        for (claim, expected, fits) in claims {
            if token.claims.get(claim).is_some_and(|value| !fits(value)) {
                return InvalidToken::Claim { claim, expected };
            }
        }
        InvalidToken::Invalid
    }

    /// What a token says, if it is good at `now`.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, InvalidToken> {
        let token = match jsonwebtoken::decode::<RawClaims>(token, &self.key, &self.rules) {
            Ok(token) => token,
            // Only a good signature is followed by an error of what it signs.
            Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                return Err(self.wrong_claim(token));
            }
            Err(_) => return Err(InvalidToken::Invalid),
        };
        // RFC 7515 (4.1.11): what the issuer says must be understood, and is not.
        if token.header.crit.is_some() {
            return Err(InvalidToken::Invalid);
        }
        let RawClaims {
            sub,
            exp,
            nbf,
            rooms,
        } = token.claims;
        let claims = Claims {
            sub: sub.ok_or(InvalidToken::Without("sub"))?,
            exp: exp.ok_or(InvalidToken::Without("exp"))?,
            rooms,
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (now, leeway) = (now.as_secs_f64(), LEEWAY.as_secs_f64());
        if claims.exp + leeway <= now {
            return Err(InvalidToken::Expired);
        }
        if nbf.is_some_and(|nbf| nbf > now + leeway) {
            return Err(InvalidToken::Early);
        }
        Ok(claims)
    }
}

impl Claims {
    /// How long from `now` on they hold.
    pub(crate) fn expires_in(&self, now: SystemTime) -> Duration {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let left = self.exp - now.as_secs_f64();
        let left = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX);
        left.saturating_add(LEEWAY)
    }
}

/// Whether the library that is to verify with it takes it: a key that it does not would refuse every
/// token, and nobody would know why.
fn is_good(
    key: &DecodingKey,
    algorithm: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
) -> bool {
    let Ok(bytes) = key.try_get_as_bytes() else {
        return false;
    };
    let strong = algorithm != Algorithm::RS256
        || RsaParameters::public_modulus_len(bytes).is_ok_and(|bits| {
            let rsa = &RSA_PKCS1_2048_8192_SHA256;
            (rsa.min_modulus_len()..=rsa.max_modulus_len()).contains(&bits)
        });
    strong && ParsedPublicKey::new(verification, bytes).is_ok()
}

impl fmt::Debug for TokenKey {
    /// The algorithm, not the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({:?})", self.algorithm)
    }
}

#[cfg(test)]
mod tests;
