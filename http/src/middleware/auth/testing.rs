//! Issuers that sign tokens in tests.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
        KeyPair, RsaKeyPair,
    },
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use pem::Pem;
use serde_json::{Value, json};

pub(super) const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 asks for";

/// Signs tokens with one key.
#[derive(Clone)]
pub(super) struct Issuer {
    pub(super) signs: EncodingKey,
    pub(super) algorithm: Algorithm,
    /// The content of a `--jwt-key` file that verifies the tokens of this issuer.
    pub(super) file: String,
}

pub(super) fn secret(secret: &str) -> Issuer {
    Issuer {
        signs: EncodingKey::from_secret(secret.as_bytes()),
        algorithm: Algorithm::HS256,
        file: format!("{secret}\n"),
    }
}

pub(super) fn pem(tag: &str, der: &[u8]) -> String {
    pem::encode(&Pem::new(tag, der))
}

fn public(key: &impl AsDer<PublicKeyX509Der<'static>>) -> String {
    pem("PUBLIC KEY", key.as_der().unwrap().as_ref())
}

pub(super) fn ed25519() -> Issuer {
    // The key is in the first version of PKCS #8, since `Jwk::from_encoding_key` accepts no other version.
    let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    Issuer {
        signs: EncodingKey::from_ed_der(pkcs8.as_ref()),
        algorithm: Algorithm::EdDSA,
        file: public(pair.public_key()),
    }
}

pub(super) fn ec(curve: &'static EcdsaSigningAlgorithm, algorithm: Algorithm) -> Issuer {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(curve, pkcs8.as_ref()).unwrap();
    Issuer {
        signs: EncodingKey::from_ec_der(pkcs8.as_ref()),
        algorithm,
        file: public(pair.public_key()),
    }
}

pub(super) fn p256() -> Issuer {
    ec(&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256)
}

/// Returns an issuer with an RSA key, and its public key in the other PEM form (PKCS #1).
pub(super) fn rsa() -> (Issuer, String) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let private = pem("PRIVATE KEY", pkcs8.as_ref());
    let issuer = Issuer {
        signs: EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
        algorithm: Algorithm::RS256,
        file: public(pair.public_key()),
    };
    (issuer, pem("RSA PUBLIC KEY", pair.public_key().as_ref()))
}

impl Issuer {
    pub(super) fn token(&self, claims: &Value) -> String {
        encode(&Header::new(self.algorithm), claims, &self.signs).unwrap()
    }

    pub(super) fn token_with_kid(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        encode(&header, claims, &self.signs).unwrap()
    }

    /// Returns the key that verifies the tokens of this issuer, as a JWK.
    pub(super) fn jwk(&self, kid: Option<&str>) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.signs, self.algorithm).unwrap();
        jwk.common.key_id = kid.map(str::to_owned);
        serde_json::to_value(jwk).unwrap()
    }
}

/// Returns a key set of these keys, as JSON.
pub(super) fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}
