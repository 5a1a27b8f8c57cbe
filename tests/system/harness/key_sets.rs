//! An identity provider: keys that sign tokens, and a server that publishes their key set (JWKS).

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};

use super::{authority::Certificate, endpoint::Endpoint, now_ms};

/// A key that signs tokens with ES256.
pub struct Signer {
    kid: &'static str,
    key: EncodingKey,
    /// The public key in PEM.
    pub public: String,
}

impl Signer {
    pub fn new(kid: &'static str) -> Signer {
        let pair = KeyPair::generate().unwrap();
        Signer {
            kid,
            key: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap(),
            public: pair.public_key_pem(),
        }
    }

    /// Returns the public key as a JWK.
    pub fn jwk(&self) -> Value {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        key.common.key_id = Some(self.kid.to_owned());
        serde_json::to_value(key).unwrap()
    }

    /// Returns a token of user `u-17` that is valid for ten minutes, with additional claims.
    pub fn token(&self, more: Value) -> String {
        self.token_with_kid(self.kid, more)
    }

    /// Returns a token like [`Signer::token`], with another `kid`.
    pub fn token_with_kid(&self, kid: &str, more: Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.to_owned());
        encode(&header, &claims(more), &self.key).unwrap()
    }
}

/// Returns a token of user `u-17` that is signed with HS256 by this secret.
pub fn signed_by_secret(secret: &[u8], kid: &str, more: Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(kid.to_owned());
    encode(&header, &claims(more), &EncodingKey::from_secret(secret)).unwrap()
}

fn claims(more: Value) -> Value {
    let mut claims = json!({"sub": "u-17", "exp": now_ms() / 1000 + 600});
    claims
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    claims
}

/// Returns the key set (JWKS) with the public keys of these signers, as JSON.
pub fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// A server that publishes a key set.
pub struct KeySetEndpoint {
    pub server: Endpoint,
    published: Arc<Published>,
}

struct Published {
    set: Mutex<String>,
    requests: AtomicU32,
}

impl KeySetEndpoint {
    /// Starts an endpoint that publishes the keys of these signers. It uses TLS if there is a certificate.
    pub fn start(signers: &[&Signer], certificate: Option<&Certificate>) -> KeySetEndpoint {
        let mut key_set = KeySetEndpoint::stopped(signers, certificate);
        key_set.server.run();
        key_set
    }

    /// Creates an endpoint for the keys of these signers that is not started yet.
    pub fn stopped(signers: &[&Signer], certificate: Option<&Certificate>) -> KeySetEndpoint {
        let published = Arc::new(Published {
            set: Mutex::new(key_set(signers)),
            requests: AtomicU32::new(0),
        });
        let answering = published.clone();
        let server = Endpoint::stopped(certificate, move |request| {
            answering.requests.fetch_add(1, Ordering::SeqCst);
            let is_set = request.head.starts_with("GET /jwks.json HTTP/1.1\r\n");
            let status = if is_set { "200 OK" } else { "404 Not Found" };
            (status, answering.set.lock().unwrap().clone())
        });
        KeySetEndpoint { server, published }
    }

    pub fn url(&self) -> String {
        self.server.url("/jwks.json")
    }

    /// Replaces the published keys by the keys of these signers.
    pub fn publish(&self, signers: &[&Signer]) {
        *self.published.set.lock().unwrap() = key_set(signers);
    }

    /// Returns the number of requests that the server has received.
    pub fn requests(&self) -> u32 {
        self.published.requests.load(Ordering::SeqCst)
    }
}
