//! The file that `--jwt-key` names: a secret, a public key in PEM, or a key set.
//!
//! ```text
//!  the file ──PEM?──yes─▶ Ed25519, RSA or P-256
//!                └──no──JSON?──yes─▶ JWKS
//!                          └──no──▶ one line of text: the secret of HS256
//! ```

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::SystemTime,
};

use crate::middleware::auth::{
    claims::{Claims, InvalidToken, RequiredClaims},
    key_set::{InvalidKeySet, KeySet, MAX_SET_BYTES, describe_skipped},
    token_key::{InvalidPem, Origin, SECRET_BYTES, TokenKey},
};

/// The keys that a file contains.
#[derive(Debug)]
pub(crate) enum KeyFile {
    Key(Box<TokenKey>),
    Set(KeySet),
}

/// The reason why a file contains no key that can verify tokens. Messages repeat nothing of the file except the `kid`
/// and `alg` of a JWK.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKey {
    /// The file cannot be read.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file has no text.
    #[error(
        "the file is empty; write an HS256 secret, a public key in PEM or a key set (JWKS) to it"
    )]
    Empty,
    /// The file is longer than a key set may be.
    #[error(
        "the file is too long to be a key or a key set (JWKS): it has more than {MAX_SET_BYTES} bytes"
    )]
    Long,
    /// The file is neither PEM nor JSON nor a line of text.
    #[error(
        "the file contains neither a public key in PEM nor a key set (JWKS) nor an HS256 secret (one line of text)"
    )]
    NotText,
    /// The file is a public key in the format of SSH. Such a file is one line of text. Without this error, the line
    /// would be used as an HS256 secret, although others know it.
    #[error(
        "SSH keys are not accepted; use a public key in PEM (BEGIN PUBLIC KEY) or a key set (JWKS)"
    )]
    OtherForm,
    /// The file is JSON, but cannot be used as a key set.
    #[error("the file {0}")]
    KeySet(#[from] InvalidKeySet),
    /// The file is a private key, which only the issuer of tokens may have.
    #[error(
        "this is a private key, which only the issuer of tokens needs; use the public key: \
         openssl pkey -in FILE -pubout"
    )]
    Private,
    /// The file is PEM, but not a public key. For example, a certificate is refused, because this program would not
    /// check whether the certificate is valid.
    #[error(
        "this PEM is not a public key; to extract the key of a certificate, run: \
         openssl x509 -in FILE -noout -pubkey"
    )]
    NotPublic,
    /// The file is a public key of an unsupported type, or an invalid one.
    #[error(
        "the public key is not supported; use Ed25519 (EdDSA), P-256 (ES256) or RSA of 2048 to 8192 bits (RS256)"
    )]
    Unknown,
}

impl KeyFile {
    /// Reads the keys that a file contains.
    pub(crate) fn read(file: &Path, required: &RequiredClaims) -> Result<Self, InvalidKey> {
        let mut bytes = Vec::new();
        File::open(file)?
            .take(MAX_SET_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        if bytes.len() > MAX_SET_BYTES {
            return Err(InvalidKey::Long);
        }
        Self::parse(&bytes, required)
    }

    /// Parses the content of a file.
    pub(crate) fn parse(bytes: &[u8], required: &RequiredClaims) -> Result<Self, InvalidKey> {
        let text = std::str::from_utf8(bytes).map_err(|_| InvalidKey::NotText)?;
        let text = text.trim_start_matches('\u{feff}');
        if text.contains("-----BEGIN") {
            let key = TokenKey::from_pem(text, required)?;
            return Ok(Self::Key(Box::new(key)));
        }
        if text.trim_start().starts_with(['{', '[']) {
            let set = KeySet::parse(text.as_bytes(), Origin::File, required)?;
            return Ok(Self::Set(set));
        }
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.trim().is_empty() {
            return Err(InvalidKey::Empty);
        }
        if secret.starts_with("ssh-") {
            return Err(InvalidKey::OtherForm);
        }
        if secret.chars().any(char::is_control) {
            return Err(InvalidKey::NotText);
        }
        let key = TokenKey::from_secret(secret.as_bytes(), required);
        Ok(Self::Key(Box::new(key)))
    }

    /// Returns the claims of a token that is valid at `now`.
    pub(crate) fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, InvalidToken> {
        match self {
            Self::Key(key) => key.verify(token, now),
            Self::Set(set) => set.verify(token, now),
        }
    }

    /// Returns warnings about the keys for the operator, one line each.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let (mut warnings, guessable) = match self {
            Self::Key(key) => (Vec::new(), key.is_guessable()),
            Self::Set(set) => (describe_skipped(set.skipped()), set.has_guessable_key()),
        };
        if guessable {
            warnings.push(format!(
                "the HS256 secret has fewer than {SECRET_BYTES} bytes: an attacker who has one token can find \
                 the secret by brute force and issue tokens for any user; generate a longer one with: \
                 openssl rand -base64 32"
            ));
        }
        warnings
    }
}

impl From<InvalidPem> for InvalidKey {
    fn from(invalid: InvalidPem) -> Self {
        match invalid {
            InvalidPem::Private => Self::Private,
            InvalidPem::NotPublic => Self::NotPublic,
            InvalidPem::Unknown => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
