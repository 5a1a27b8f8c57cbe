//! An identity provider of the tests' own: an HTTPS endpoint that issues access tokens to clients (the
//! client_credentials grant, RFC 6749, section 4.4), and the key set with which brokers check the tokens.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{DEADLINE, authority::Certificate, now_ms, supervised::free_addresses};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "kafka";
pub const SCOPE: &str = "reactions";
const KEY_ID: &str = "k1";

/// Signs tokens.
#[derive(Clone)]
pub struct Signer(EncodingKey);

impl Signer {
    pub fn new() -> Signer {
        let key = KeyPair::generate().unwrap().serialize_pem();
        Signer(EncodingKey::from_ec_pem(key.as_bytes()).unwrap())
    }

    /// The public key as a JSON Web Key Set.
    pub fn key_set(&self) -> String {
        let mut key = Jwk::from_encoding_key(&self.0, Algorithm::ES256).unwrap();
        key.common.key_id = Some(KEY_ID.to_owned());
        json!({"keys": [key]}).to_string()
    }

    fn token(&self, principal: &str, life: Duration) -> String {
        let now = now_ms() / 1000;
        let claims = json!({
            "sub": principal, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + life.as_secs(),
        });
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.to_owned());
        encode(&header, &claims, &self.0).unwrap()
    }
}

/// An endpoint whose tokens have the client's id as their subject, which Kafka uses as the principal. The secret of a
/// client is that of [`super::secured::secret`].
pub struct TokenEndpoint {
    /// Its `host:port`.
    pub address: String,
    serving: Arc<Serving>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

struct Serving {
    signer: Signer,
    life: Duration,
    tls: Arc<ServerConfig>,
    issued: AtomicU32,
}

impl TokenEndpoint {
    /// Starts one whose tokens are valid for `life`.
    pub fn start(signer: Signer, certificate: &Certificate, life: Duration) -> TokenEndpoint {
        let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![chain], key).unwrap();
        let mut endpoint = TokenEndpoint {
            address: free_addresses(1).remove(0),
            serving: Arc::new(Serving {
                signer,
                life,
                tls: Arc::new(tls),
                issued: AtomicU32::new(0),
            }),
            running: None,
        };
        endpoint.come_back();
        endpoint
    }

    pub fn url(&self) -> String {
        format!("https://{}/token", self.address)
    }

    /// Number of tokens issued so far.
    pub fn issued(&self) -> u32 {
        self.serving.issued.load(Ordering::SeqCst)
    }

    /// Closes its port, so that connections are refused.
    pub fn go_away(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::SeqCst);
            // The thread waits for a connection.
            let _ = TcpStream::connect(&self.address);
            thread.join().unwrap();
        }
    }

    /// Starts again, at the same address.
    pub fn come_back(&mut self) {
        let listener = TcpListener::bind(&self.address).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (serving, stopped) = (self.serving.clone(), stop.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let serving = serving.clone();
                thread::spawn(move || {
                    // A client may go away at any time.
                    let _ = serving.serve(client);
                });
            }
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for TokenEndpoint {
    fn drop(&mut self) {
        self.go_away();
    }
}

impl Serving {
    /// Answers one request.
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(DEADLINE))?;
        let tls = ServerConnection::new(self.tls.clone()).map_err(io::Error::other)?;
        let mut reader = BufReader::new(StreamOwned::new(tls, client));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let (status, answer) = self.answer(&head, &String::from_utf8_lossy(&body));
        let (answer, mut stream) = (answer.to_string(), reader.into_inner());
        let length = answer.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{answer}"
        )?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(&self, head: &str, body: &str) -> (&'static str, Value) {
        let refused = |why: &str| ("400 Bad Request", json!({"error": why}));
        let form = "application/x-www-form-urlencoded";
        let is_form = header(head, "content-type").is_some_and(|it| it.starts_with(form));
        if !head.starts_with("POST /token ") || !is_form {
            return refused("invalid_request");
        }
        let mut fields: Vec<&str> = body.split('&').collect();
        fields.sort_unstable();
        if !fields.contains(&"grant_type=client_credentials") {
            return refused("unsupported_grant_type");
        }
        if !fields.contains(&format!("scope={SCOPE}").as_str()) {
            return refused("invalid_scope");
        }
        match header(head, "authorization").and_then(client) {
            Some(id) => {
                self.issued.fetch_add(1, Ordering::SeqCst);
                let token = self.signer.token(&id, self.life);
                let life = self.life.as_secs();
                let answer =
                    json!({"access_token": token, "token_type": "Bearer", "expires_in": life});
                ("200 OK", answer)
            }
            None => ("401 Unauthorized", json!({"error": "invalid_client"})),
        }
    }
}

/// Returns the id of the client that an `Authorization` header of HTTP Basic names, if its secret is right.
fn client(authorization: &str) -> Option<String> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    (secret == super::secured::secret(id)).then(|| id.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
