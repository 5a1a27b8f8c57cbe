//! An identity provider for tests: an HTTPS endpoint that issues access tokens to clients (the client_credentials
//! grant, RFC 6749, section 4.4).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::json;

use super::{
    authority::Certificate,
    endpoint::{Endpoint, Request},
    key_sets::Signer,
    now_ms,
};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "kafka";
pub const SCOPE: &str = "reactions";

/// An endpoint that issues tokens. Their subject is the client's id, which Kafka uses as the principal. A client's
/// secret is the one that [`super::secured::secret`] returns.
pub struct TokenEndpoint {
    pub server: Endpoint,
    issued: Arc<AtomicU32>,
}

impl TokenEndpoint {
    /// Starts an endpoint. Its tokens are valid for `life`.
    pub fn start(signer: Arc<Signer>, certificate: &Certificate, life: Duration) -> TokenEndpoint {
        let issued = Arc::new(AtomicU32::new(0));
        let counted = issued.clone();
        let mut server = Endpoint::stopped(Some(certificate), move |request| {
            match authenticated(request) {
                Ok(client) => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let token = token(&signer, &client, life);
                    let answer = json!({
                        "access_token": token, "token_type": "Bearer", "expires_in": life.as_secs(),
                    });
                    ("200 OK", answer.to_string())
                }
                Err((status, why)) => (status, json!({"error": why}).to_string()),
            }
        });
        server.run();
        TokenEndpoint { server, issued }
    }

    pub fn url(&self) -> String {
        self.server.url("/token")
    }

    /// Returns the number of issued tokens.
    pub fn issued(&self) -> u32 {
        self.issued.load(Ordering::SeqCst)
    }
}

fn token(signer: &Signer, principal: &str, life: Duration) -> String {
    let now = now_ms() / 1000;
    signer.token(json!({
        "sub": principal, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + life.as_secs(),
    }))
}

/// Checks a request for a token. Returns the client to which the token is issued, or the status and the error code of a
/// refusal.
fn authenticated(request: &Request) -> Result<String, (&'static str, &'static str)> {
    let refused = |why| Err(("400 Bad Request", why));
    let form = "application/x-www-form-urlencoded";
    let content = request.header("content-type");
    if !request.head.starts_with("POST /token ") || !content.is_some_and(|it| it.starts_with(form))
    {
        return refused("invalid_request");
    }
    let fields: Vec<&str> = request.body.split('&').collect();
    if !fields.contains(&"grant_type=client_credentials") {
        return refused("unsupported_grant_type");
    }
    if !fields.contains(&format!("scope={SCOPE}").as_str()) {
        return refused("invalid_scope");
    }
    let client = request.header("authorization").and_then(client);
    client.ok_or(("401 Unauthorized", "invalid_client"))
}

/// Parses an `Authorization` header of HTTP Basic. Returns the client's id if its secret is right.
fn client(authorization: &str) -> Option<String> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    (secret == super::secured::secret(id)).then(|| id.to_owned())
}
