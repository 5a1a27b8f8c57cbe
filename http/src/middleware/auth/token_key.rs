//! A key that verifies tokens, and the algorithm that it is used with.
//!
//! ```text
//!  a line of text ─▶ HS256
//!  PEM            ─▶ Ed25519: EdDSA │ RSA: RS256 │ P-256: ES256
//!  JWK            ─▶ OKP Ed25519: EdDSA │ RSA: RS256 │ EC P-256: ES256 │ oct: HS256
//! ```
//!
//! Invariant: a key has one algorithm. The type of the key decides which one, and never the header of a token. So a
//! token with the algorithm `none` is refused, and so is a token that is signed by HS256 with a public key as the
//! secret.

use std::{fmt, time::SystemTime};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    errors::{Error, ErrorKind},
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde_json::{Map, Value};

use crate::middleware::auth::claims::{Claims, InvalidToken, RawClaims, RequiredClaims};

/// Minimum length of an HS256 secret in bytes: RFC 7518 (3.2) requires as many bits as the hash has.
///
/// A shorter secret is accepted with a warning ([`TokenKey::is_guessable`]): the issuer of the tokens has chosen the
/// secret, and a short secret is good enough for a test.
pub(crate) const SECRET_BYTES: usize = 32;

/// Maximum characters of an algorithm's name in a message.
const REPEATED_CHARS: usize = 32;

/// A key that verifies tokens.
pub(crate) struct TokenKey {
    key: DecodingKey,
    validation: Validation,
    algorithm: Algorithm,
    guessable: bool,
}

/// The reason why a public key in PEM cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InvalidPem {
    Private,
    NotPublic,
    Unknown,
}

/// The source of a key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A file of this host. It may contain secrets, since only this host reads it.
    File,
    /// A URL. The key set must not contain secrets, since others read it as well.
    Url,
}

/// The reason why a JWK cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableJwk {
    #[error("the key is not a JWK (RFC 7517)")]
    Malformed,
    #[error("the key is a private key, which only the issuer of tokens may have")]
    Private,
    #[error("the key is an oct key, a secret; secrets are accepted from a file only")]
    PublishedSecret,
    #[error("the key's use or key_ops does not include the verification of signatures")]
    OtherUse,
    #[error("the key's alg is {0:?}; a key of its type needs {1:?}")]
    OtherAlgorithm(String, Algorithm),
    #[error(
        "the key's kty and crv are not supported; use EC P-256 (ES256), OKP Ed25519 (EdDSA), RSA (RS256) or oct (HS256)"
    )]
    OtherType,
    #[error("the key's value is not a valid key for {0:?}; RSA needs 2048 to 8192 bits")]
    Broken(Algorithm),
}

impl TokenKey {
    /// Returns the HS256 key that consists of `secret`.
    pub(super) fn from_secret(secret: &[u8], required: &RequiredClaims) -> Self {
        let key = DecodingKey::from_secret(secret);
        Self {
            guessable: secret.len() < SECRET_BYTES,
            ..Self::new(key, Algorithm::HS256, required)
        }
    }

    /// Returns the public key that a text contains in PEM.
    pub(super) fn from_pem(pem: &str, required: &RequiredClaims) -> Result<Self, InvalidPem> {
        if pem.contains("PRIVATE KEY-----") {
            return Err(InvalidPem::Private);
        }
        if !pem.contains("-----BEGIN PUBLIC KEY-----")
            && !pem.contains("-----BEGIN RSA PUBLIC KEY-----")
        {
            return Err(InvalidPem::NotPublic);
        }
        let pem = pem.as_bytes();
        let parsed = [
            (DecodingKey::from_ed_pem(pem), Algorithm::EdDSA),
            (DecodingKey::from_ec_pem(pem), Algorithm::ES256),
            (DecodingKey::from_rsa_pem(pem), Algorithm::RS256),
        ];
        for (key, algorithm) in parsed {
            if let Ok(key) = key
                && is_usable(&key, algorithm)
            {
                return Ok(Self::new(key, algorithm, required));
            }
        }
        Err(InvalidPem::Unknown)
    }

    /// Returns the key that a JWK describes (RFC 7517). The type of the key decides its algorithm.
    pub(super) fn from_jwk(
        jwk: &Value,
        origin: Origin,
        required: &RequiredClaims,
    ) -> Result<Self, UnusableJwk> {
        // Each private key of EC, OKP or RSA has the member `d` (RFC 7518, 6.2.2 and 6.3.2; RFC 8037).
        if jwk.get("d").is_some() {
            return Err(UnusableJwk::Private);
        }
        let stated = jwk["alg"].as_str().unwrap_or_default();
        let stated: String = stated.chars().take(REPEATED_CHARS).collect();
        let jwk: Jwk = serde_json::from_value(jwk.clone()).map_err(|_| UnusableJwk::Malformed)?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                Algorithm::EdDSA
            }
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::OctetKey(_) if origin == Origin::Url => {
                return Err(UnusableJwk::PublishedSecret);
            }
            AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
            _ => return Err(UnusableJwk::OtherType),
        };
        let common = &jwk.common;
        let other_use = common.public_key_use.as_ref();
        let other_use = other_use.is_some_and(|it| *it != PublicKeyUse::Signature);
        let operations = common.key_operations.as_ref();
        if other_use || operations.is_some_and(|it| !it.contains(&KeyOperations::Verify)) {
            return Err(UnusableJwk::OtherUse);
        }
        let fits = |stated| stated == KeyAlgorithm::from(algorithm);
        if !common.key_algorithm.is_none_or(fits) {
            return Err(UnusableJwk::OtherAlgorithm(stated, algorithm));
        }
        let broken = UnusableJwk::Broken(algorithm);
        let key = DecodingKey::from_jwk(&jwk).map_err(|_| broken.clone())?;
        if algorithm == Algorithm::HS256 {
            let secret = key.try_get_as_bytes().map_err(|_| broken.clone())?;
            return match secret {
                [] => Err(broken),
                secret => Ok(Self::from_secret(secret, required)),
            };
        }
        match is_usable(&key, algorithm) {
            true => Ok(Self::new(key, algorithm, required)),
            false => Err(broken),
        }
    }

    fn new(key: DecodingKey, algorithm: Algorithm, required: &RequiredClaims) -> Self {
        let mut validation = Validation::new(algorithm);
        // jsonwebtoken is configured not to check the times of a token. `Claims::check` checks them, since the current
        // time is one of its arguments.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        validation.validate_aud = !required.audiences.is_empty();
        let mut require = |claim: &str| validation.required_spec_claims.insert(claim.to_owned());
        if !required.audiences.is_empty() {
            require("aud");
            validation.set_audience(&required.audiences);
        }
        if !required.issuers.is_empty() {
            validation.required_spec_claims.insert("iss".to_owned());
            validation.set_issuer(&required.issuers);
        }
        Self {
            key,
            validation,
            algorithm,
            guessable: false,
        }
    }

    /// Returns the algorithm that tokens of this key are signed with.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns whether the key is a short secret, which an attacker can find by brute force with one of its tokens.
    pub(crate) fn is_guessable(&self) -> bool {
        self.guessable
    }

    /// Returns the claims of a token that is valid at `now`.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, InvalidToken> {
        let token = match jsonwebtoken::decode::<RawClaims>(token, &self.key, &self.validation) {
            Ok(token) => token,
            // jsonwebtoken parses claims only after it has verified the signature, so this error can name the claim.
            Err(error) if matches!(error.kind(), ErrorKind::Json(_)) => {
                return Err(self.wrong_claim(token));
            }
            Err(error) => return Err(describe(&error)),
        };
        // RFC 7515 (4.1.11): a token with extensions that are not understood must be refused.
        if token.header.crit.is_some() {
            return Err(InvalidToken::Invalid);
        }
        Claims::check(token.claims, now)
    }

    /// Returns which claim of a token could not be parsed, if the signature is valid.
    fn wrong_claim(&self, token: &str) -> InvalidToken {
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &self.key, &self.validation);
        let token = match token {
            Ok(token) => token,
            Err(error) => return describe(&error),
        };
        let is_list: fn(&Value) -> bool = |value| {
            let list = value.as_array();
            list.is_some_and(|list| list.iter().all(Value::is_string))
        };
        let claims = [
            ("sub", "text", Value::is_string as fn(&Value) -> bool),
            ("exp", "a number of seconds", Value::is_number),
            ("nbf", "a number of seconds", Value::is_number),
            ("rooms", "a list of strings", is_list),
        ];
        for (claim, expected, fits) in claims {
            if token.claims.get(claim).is_some_and(|value| !fits(value)) {
                return InvalidToken::Claim { claim, expected };
            }
        }
        InvalidToken::Invalid
    }
}

/// Converts an error of jsonwebtoken. jsonwebtoken checks claims after the signature, so only a token with a valid
/// signature gets a response about its claims.
fn describe(error: &Error) -> InvalidToken {
    match error.kind() {
        ErrorKind::InvalidAudience => InvalidToken::OtherAudience,
        ErrorKind::InvalidIssuer => InvalidToken::OtherIssuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => InvalidToken::Without("aud"),
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => InvalidToken::Without("iss"),
        _ => InvalidToken::Invalid,
    }
}

/// Returns whether aws-lc-rs, which verifies signatures, accepts the key. If aws-lc-rs does not accept a key, every
/// token would be refused with this key, and no message would name the reason.
fn is_usable(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let rsa = &RSA_PKCS1_2048_8192_SHA256;
    let is_long_enough =
        |bits: u32| (rsa.min_modulus_len()..=rsa.max_modulus_len()).contains(&bits);
    let parses = |bytes: &[u8], verification: &'static dyn VerificationAlgorithm| {
        ParsedPublicKey::new(verification, bytes).is_ok()
    };
    match (algorithm, key.kind()) {
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(bytes)) => parses(bytes, &ED25519),
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(bytes)) => {
            parses(bytes, &ECDSA_P256_SHA256_FIXED)
        }
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(bytes)) => {
            RsaParameters::public_modulus_len(bytes).is_ok_and(is_long_enough) && parses(bytes, rsa)
        }
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            let first = n.first().map_or(0, |byte| byte.leading_zeros());
            let bits = u32::try_from(n.len() * 8).map_or(0, |bits| bits - first);
            let components = RsaPublicKeyComponents { n, e };
            is_long_enough(bits) && components.to_parsed_public_key(rsa).is_ok()
        }
        _ => false,
    }
}

impl fmt::Debug for TokenKey {
    /// Writes the algorithm, but not the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({:?})", self.algorithm)
    }
}
