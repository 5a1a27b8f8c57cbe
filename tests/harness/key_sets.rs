//! An identity provider: keys that sign tokens, and the server that publishes their key set (JWKS).

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rcgen::KeyPair;
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{DEADLINE, authority::Certificate, now_ms, supervised::free_addresses};

/// A key that signs tokens, ES256.
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

    /// The public key.
    pub fn jwk(&self) -> Value {
        let mut key = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        key.common.key_id = Some(self.kid.to_owned());
        serde_json::to_value(key).unwrap()
    }

    /// A token of `u-17` for ten minutes, with these claims as well.
    pub fn token(&self, more: Value) -> String {
        self.token_with_kid(self.kid, more)
    }

    /// The same with another `kid`.
    pub fn token_with_kid(&self, kid: &str, more: Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.to_owned());
        encode(&header, &claims(more), &self.key).unwrap()
    }
}

/// A token of `u-17` that is signed by this secret.
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

/// The set of these keys.
pub fn key_set(signers: &[&Signer]) -> String {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// A server that publishes a key set.
pub struct KeySetEndpoint {
    address: String,
    serving: Arc<Serving>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

struct Serving {
    tls: Option<Arc<ServerConfig>>,
    set: Mutex<String>,
    requests: AtomicU32,
}

impl KeySetEndpoint {
    /// Publishes the keys of these signers; in TLS if there is a certificate.
    pub fn start(signers: &[&Signer], certificate: Option<&Certificate>) -> KeySetEndpoint {
        let mut endpoint = KeySetEndpoint::stopped(signers, certificate);
        endpoint.run();
        endpoint
    }

    /// An endpoint that does not run yet.
    pub fn stopped(signers: &[&Signer], certificate: Option<&Certificate>) -> KeySetEndpoint {
        let tls = certificate.map(|certificate| {
            let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
            let tls = ServerConfig::builder().with_no_client_auth();
            Arc::new(tls.with_single_cert(vec![chain], key).unwrap())
        });
        KeySetEndpoint {
            address: free_addresses(1).remove(0),
            serving: Arc::new(Serving {
                tls,
                set: Mutex::new(key_set(signers)),
                requests: AtomicU32::new(0),
            }),
            running: None,
        }
    }

    pub fn url(&self) -> String {
        let scheme = if self.serving.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}/jwks.json", self.address)
    }

    /// Publishes the keys of these signers instead.
    pub fn publish(&self, signers: &[&Signer]) {
        *self.serving.set.lock().unwrap() = key_set(signers);
    }

    /// Number of requests so far.
    pub fn requests(&self) -> u32 {
        self.serving.requests.load(Ordering::SeqCst)
    }

    /// Closes its port, so that connections are refused.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::SeqCst);
            // The thread waits for a connection.
            let _ = TcpStream::connect(&self.address);
            thread.join().unwrap();
        }
    }

    /// Starts, or starts again at the same address.
    pub fn run(&mut self) {
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
                    // A client may close at any time, or not trust the certificate.
                    let _ = serving.serve(client);
                });
            }
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for KeySetEndpoint {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Serving {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(DEADLINE))?;
        match &self.tls {
            None => self.answer(client),
            Some(tls) => {
                let connection = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
                self.answer(StreamOwned::new(connection, client))
            }
        }
    }

    /// Answers one request.
    fn answer(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        let set = self.set.lock().unwrap().clone();
        let status = match head.starts_with("GET /jwks.json HTTP/1.1\r\n") {
            true => "200 OK",
            false => "404 Not Found",
        };
        let length = set.len();
        let mut stream = reader.into_inner();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{set}"
        )?;
        stream.flush()
    }
}
