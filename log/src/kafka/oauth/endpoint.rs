//! Requests tokens from the token endpoint with the client_credentials grant of RFC 6749, section 4.4.

use std::{sync::Arc, time::Duration};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rustls::crypto::aws_lc_rs;
use serde_json::Value;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};
use url::form_urlencoded;

use super::{Ca, Objection, Oidc, Token, now_ms};
use crate::kafka::tls::{self, CertificateProblem};

/// Timeout of a request, from the DNS lookup to the end of the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum bytes of a response; tokens with many claims have some kilobytes.
const MAX_RESPONSE_BYTES: u64 = 256 * 1024;
/// Lifetime that is assumed for a token whose expiry is unknown. RFC 6749 allows such tokens and recommends against
/// them.
const DEFAULT_LIFETIME_MS: i64 = 300_000;
/// Maximum lifetime of a token, a year, so that a token that never expires is replaced, too.
const MAX_LIFETIME_MS: i64 = 365 * 24 * 3_600_000;
/// Maximum length of a text from the token endpoint in an error message.
const REPEATED_CHARS: usize = 200;

pub(in crate::kafka) struct Endpoint {
    oidc: Oidc,
    agent: Agent,
}

impl Endpoint {
    /// Reads the CA certificates, and creates an HTTP client that trusts them.
    pub(in crate::kafka) fn new(oidc: Oidc) -> Result<Self, Objection> {
        let mut config = Agent::config_builder()
            .timeout_global(Some(REQUEST_TIMEOUT))
            .http_status_as_error(false)
            // Redirects are not followed, since they would send the client's secret to another address.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("emostream/", env!("CARGO_PKG_VERSION")));
        if oidc.endpoint.scheme() == "https" {
            config = config.tls_config(trust(&oidc.ca)?);
        } else {
            // An endpoint without TLS is on this host, which a proxy does not reach, so no proxy is used.
            config = config.proxy(None);
        }
        let agent = config.build().new_agent();
        Ok(Self { oidc, agent })
    }

    pub(super) fn host(&self) -> String {
        self.oidc.host()
    }

    /// Requests a token. An error is a sentence that names the endpoint.
    pub(super) fn request(&self) -> Result<Token, String> {
        self.ask()
            .map_err(|why| format!("the token endpoint {} {why}", self.host()))
    }

    fn ask(&self) -> Result<Token, String> {
        let Oidc {
            client_id,
            client_secret,
            scope,
            ..
        } = &self.oidc;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if let Some(scope) = scope {
            form.append_pair("scope", scope);
        }
        let sent = self
            .agent
            .post(self.oidc.endpoint.as_str())
            .header("authorization", basic(client_id, client_secret))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .send(form.finish());
        let mut answer = sent.map_err(|error| describe(&error))?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MAX_RESPONSE_BYTES);
        let body = body.read_to_string().map_err(|error| describe(&error))?;
        match status {
            200 => token(&body, client_id, now_ms()),
            _ => Err(refusal(status, &body, client_secret)),
        }
    }
}

/// Returns the `Authorization` header. The client's id and secret are encoded as in a form before they are joined (RFC
/// 6749, section 2.3.1).
fn basic(client_id: &str, client_secret: &str) -> String {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let joined = format!("{}:{}", encoded(client_id), encoded(client_secret));
    format!("Basic {}", BASE64_STANDARD.encode(joined))
}

fn trust(ca: &Ca) -> Result<TlsConfig, Objection> {
    let (property, certificates) = match ca {
        Ca::System => ("https.ca.location", tls::system()),
        Ca::File(path) => ("https.ca.location", tls::in_place(path)),
        Ca::Pem(pem) => ("https.ca.pem", tls::certificates(pem.as_bytes())),
    };
    let certificates = certificates.map_err(|why| (property, why))?;
    let certificates: Vec<_> = certificates
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build())
}

/// Parses the token in a response. A token that is not a JWT shows neither its principal nor its expiry: then the
/// client's id is used as the principal, and `expires_in` of the response as the lifetime.
fn token(body: &str, client_id: &str, now_ms: i64) -> Result<Token, String> {
    let answer: Value = serde_json::from_str(body).map_err(|_| {
        "responded with something other than JSON; check sasl.oauthbearer.token.endpoint.url"
            .to_owned()
    })?;
    let value = answer["access_token"].as_str();
    let value = value
        .ok_or("responded without an access_token; check sasl.oauthbearer.token.endpoint.url")?;
    // A control character would end the token in the message to the broker (RFC 7628), so it is refused.
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("responded with an access_token that is not printable text".to_owned());
    }
    let claims = claims(value).unwrap_or_default();
    let seconds = |value: &Value| match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_f64(),
    };
    let lifetime_ms = seconds(&answer["expires_in"]).map(|it| (it * 1000.0) as i64);
    let expires_ms = match (lifetime_ms, seconds(&claims["exp"])) {
        // `expires_in` is preferred, because it is correct even if the clocks of the provider and of this host differ.
        (Some(lifetime_ms), _) => now_ms.saturating_add(lifetime_ms),
        (None, Some(expires)) => (expires * 1000.0) as i64,
        (None, None) => now_ms + DEFAULT_LIFETIME_MS,
    };
    // The lifetime is limited: librdkafka multiplies it, which could overflow.
    let expires_ms = expires_ms.min(now_ms.saturating_add(MAX_LIFETIME_MS));
    if expires_ms <= now_ms {
        return Err("responded with a token that has expired; check this host's clock".to_owned());
    }
    Ok(Token {
        value: value.to_owned(),
        principal: claims["sub"].as_str().unwrap_or(client_id).to_owned(),
        expires_ms,
    })
}

/// Returns the claims of a JWT, without verifying them, which the broker does; `None` if the token is not a JWT.
fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&payload).ok()
}

/// Describes a response without a token (RFC 6749, section 5.2).
fn refusal(status: u16, body: &str, client_secret: &str) -> String {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| {
        let text = answer[name].as_str().unwrap_or_default();
        // The secret is replaced before the text is shortened: a part of the secret would not be found.
        let text = text.replace(client_secret, "[redacted]");
        text.chars().take(REPEATED_CHARS).collect::<String>()
    };
    let (error, description) = (text("error"), text("error_description"));
    let cause = match (error.as_str(), description.as_str()) {
        ("", _) => format!("status {status}"),
        (error, "") => format!("status {status}, {error}"),
        (error, description) => format!("status {status}, {error}: {description}"),
    };
    let check = match error.as_str() {
        "invalid_scope" => "sasl.oauthbearer.scope",
        "invalid_client" | "unauthorized_client" | "access_denied" => {
            "sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret"
        }
        _ if matches!(status, 401 | 403) => {
            "sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret"
        }
        _ if status >= 500 => return format!("issued no token ({cause})"),
        _ => "sasl.oauthbearer.token.endpoint.url",
    };
    format!("issued no token ({cause}); check {check}")
}

/// Describes why the endpoint has sent no response.
fn describe(error: &ureq::Error) -> String {
    let fault = match error {
        ureq::Error::Rustls(error) => tls::certificate_problem_of(error),
        ureq::Error::Io(error) => tls::certificate_problem(error),
        _ => None,
    };
    match (fault, error) {
        (Some(CertificateProblem::Untrusted), _) => {
            "has a certificate that is not trusted; set https.ca.location to a file (PEM) of the CA that signed it"
                .to_owned()
        }
        (Some(CertificateProblem::WrongHost), _) => {
            "has a certificate for other hosts; check sasl.oauthbearer.token.endpoint.url".to_owned()
        }
        (Some(CertificateProblem::Expired), _) => "has a certificate that has expired; it needs a new one".to_owned(),
        (None, ureq::Error::Timeout(_)) => format!("did not respond within {REQUEST_TIMEOUT:?}"),
        (None, ureq::Error::HostNotFound) => "has a host name that cannot be resolved".to_owned(),
        (None, ureq::Error::Io(error)) => format!("is not reachable ({error})"),
        (None, error) => format!("sent no response ({error})"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread::{self, JoinHandle},
    };
    use url::Url;

    fn jwt(claims: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_has_a_time_and_a_principal() {
        let now_ms = 1_700_000_000_000;
        let named = jwt(r#"{"sub":"svc-emostream","exp":1700000600}"#);
        let opaque = "opaque".to_owned();
        for (value, rest, principal, lifetime_ms) in [
            (&named, r#","expires_in":300"#, "svc-emostream", 300_000),
            (&named, r#","expires_in":"300""#, "svc-emostream", 300_000),
            (&named, "", "svc-emostream", 600_000),
            (&opaque, r#","expires_in":60"#, "client", 60_000),
            (&opaque, "", "client", DEFAULT_LIFETIME_MS),
            (
                &opaque,
                r#","expires_in":9223372036854775807"#,
                "client",
                MAX_LIFETIME_MS,
            ),
        ] {
            let body = format!(r#"{{"access_token":"{value}","token_type":"Bearer"{rest}}}"#);
            let token = token(&body, "client", now_ms).unwrap();
            assert_eq!(token.value, *value);
            assert_eq!(token.principal, principal, "{body}");
            assert_eq!(token.expires_ms, now_ms + lifetime_ms, "{body}");
        }
    }

    #[test]
    fn an_answer_without_a_good_token_is_refused_and_not_repeated() {
        let expired = jwt(r#"{"sub":"x","exp":5}"#);
        for (body, says) in [
            ("<html>hunter2", "JSON"),
            (r#"{"token":"hunter2"}"#, "access_token"),
            (r#"{"access_token":"hunter2\n"}"#, "printable"),
            (&format!(r#"{{"access_token":"{expired}"}}"#), "clock"),
        ] {
            let why = token(body, "client", 10_000).err().unwrap();
            assert!(why.contains(says) && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_check() {
        for (status, body, says) in [
            (
                401,
                r#"{"error":"invalid_client","error_description":"no such client"}"#,
                "(status 401, invalid_client: no such client); check sasl.oauthbearer.client.id",
            ),
            (
                400,
                r#"{"error":"invalid_scope"}"#,
                "sasl.oauthbearer.scope",
            ),
            (404, "<html>", "sasl.oauthbearer.token.endpoint.url"),
            (503, "", "(status 503)"),
        ] {
            let why = refusal(status, body, "hunter2");
            assert!(why.contains(says), "{why}");
        }
        let across_the_cut = format!(
            r#"{{"error":"x","error_description":"{}hunter2"}}"#,
            " ".repeat(REPEATED_CHARS - 3)
        );
        let why = refusal(400, &across_the_cut, "hunter2");
        assert!(!why.contains("hun"), "{why}");
    }

    #[test]
    fn id_and_secret_are_encoded_before_they_are_joined() {
        let expected = BASE64_STANDARD.encode("a%3Ab:c%2Fd+e");
        assert_eq!(basic("a:b", "c/d e"), format!("Basic {expected}"));
    }

    fn oidc(url: &str, ca: Ca) -> Oidc {
        Oidc {
            endpoint: Url::parse(url).unwrap(),
            client_id: "emostream".to_owned(),
            client_secret: "hunter2".to_owned(),
            scope: Some("kafka read".to_owned()),
            ca,
        }
    }

    /// Answers one request, and returns the request.
    fn answer(mut stream: impl Read + Write, body: &str) -> String {
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !String::from_utf8_lossy(&request).contains("scope=kafka") {
            let read = stream.read(&mut part).unwrap();
            assert_ne!(read, 0);
            request.extend_from_slice(&part[..read]);
        }
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream.flush().unwrap();
        String::from_utf8(request).unwrap()
    }

    const BODY: &str = r#"{"access_token":"opaque","token_type":"Bearer","expires_in":60}"#;

    #[test]
    fn the_request_is_a_grant_of_client_credentials() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let server = thread::spawn(move || answer(listener.accept().unwrap().0, BODY));
        let endpoint = Endpoint::new(oidc(&url, Ca::System)).unwrap();
        assert_eq!(
            endpoint.request().map(|token| token.value),
            Ok("opaque".to_owned())
        );
        let request = server.join().unwrap();
        assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
        let basic = basic("emostream", "hunter2");
        assert!(
            request.contains(&format!("authorization: {basic}\r\n")),
            "{request}"
        );
        let form = "\r\n\r\ngrant_type=client_credentials&scope=kafka+read";
        assert!(request.ends_with(form), "{request}");
    }

    /// Starts a server with a certificate for `localhost`. It answers one request if the handshake succeeds. Returns
    /// its port, its certificate in PEM, and its thread.
    fn tls_server() -> (u16, String, JoinHandle<()>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut server = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            while server.is_handshaking() {
                if server.complete_io(&mut stream).is_err() {
                    return;
                }
            }
            answer(rustls::StreamOwned::new(server, stream), BODY);
        };
        (port, pem, thread::spawn(serve))
    }

    #[test]
    fn an_endpoint_is_trusted_by_its_ca_and_by_its_name() {
        let (port, pem, server) = tls_server();
        let url = format!("https://localhost:{port}/token");
        let endpoint = Endpoint::new(oidc(&url, Ca::Pem(pem))).unwrap();
        assert_eq!(
            endpoint.request().map(|token| token.value),
            Ok("opaque".to_owned())
        );
        server.join().unwrap();

        let (port, pem, server) = tls_server();
        let url = format!("https://127.0.0.1:{port}/token");
        let endpoint = Endpoint::new(oidc(&url, Ca::Pem(pem))).unwrap();
        let why = endpoint.request().err().unwrap();
        assert!(why.contains("certificate for other hosts"), "{why}");
        server.join().unwrap();

        let (port, _, server) = tls_server();
        let url = format!("https://localhost:{port}/token");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let endpoint = Endpoint::new(oidc(&url, Ca::Pem(other.cert.pem()))).unwrap();
        let why = endpoint.request().err().unwrap();
        assert!(why.contains("https.ca.location"), "{why}");
        server.join().unwrap();
    }

    #[test]
    fn an_endpoint_that_is_away_is_named_without_the_secret() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let url = format!("http://127.0.0.1:{port}/token");
        let why = Endpoint::new(oidc(&url, Ca::System))
            .unwrap()
            .request()
            .err()
            .unwrap();
        let start = format!("the token endpoint 127.0.0.1:{port} is not reachable (");
        assert!(why.starts_with(&start), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
