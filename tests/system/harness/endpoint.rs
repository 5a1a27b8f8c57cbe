//! An HTTP server for tests, which can be stopped and started again at the same address.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::{DEADLINE, authority::Certificate, supervised::free_addresses, until};

/// A request: its head and its body.
pub struct Request {
    pub head: String,
    pub body: String,
}

impl Request {
    /// Returns the value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A response: its status, and its body in JSON.
pub type Answer = (&'static str, String);

pub struct Endpoint {
    pub address: String,
    serving: Arc<Serving>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

struct Serving {
    tls: Option<Arc<ServerConfig>>,
    answer: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
}

impl Endpoint {
    /// Creates an endpoint that is not started yet. It uses TLS if there is a certificate.
    pub fn stopped(
        certificate: Option<&Certificate>,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Endpoint {
        let tls = certificate.map(|certificate| {
            let chain = CertificateDer::from_pem_slice(certificate.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
            let tls = ServerConfig::builder().with_no_client_auth();
            Arc::new(tls.with_single_cert(vec![chain], key).unwrap())
        });
        let answer = Box::new(answer);
        Endpoint {
            address: free_addresses(1).remove(0),
            serving: Arc::new(Serving { tls, answer }),
            running: None,
        }
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.serving.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.address)
    }

    /// Closes the port, so that connections are refused.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::SeqCst);
            // The thread is blocked until the next connection, so this connection wakes it up.
            let _ = TcpStream::connect(&self.address);
            thread.join().unwrap();
        }
    }

    /// Starts the server. After a stop it starts again at the same address.
    pub fn run(&mut self) {
        // Between fork and exec, a child process of another test has a copy of the closed listener. So the port may
        // still be in use.
        let listener = until("a free port", || TcpListener::bind(&self.address).ok());
        let stop = Arc::new(AtomicBool::new(false));
        let (serving, stopped) = (self.serving.clone(), stop.clone());
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let serving = serving.clone();
                thread::spawn(move || {
                    // Errors are ignored: a client may close at any time, or may not trust the certificate.
                    let _ = serving.serve(client);
                });
            }
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Serving {
    fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(DEADLINE))?;
        let Some(tls) = &self.tls else {
            return self.answer_one(client).map(drop);
        };
        let connection = ServerConnection::new(tls.clone()).map_err(io::Error::other)?;
        let mut stream = self.answer_one(StreamOwned::new(connection, client))?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer_one<S: Read + Write>(&self, stream: S) -> io::Result<S> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let body = String::new();
        let mut request = Request { head, body };
        let length = request.header("content-length");
        let length = length.and_then(|length| length.parse().ok());
        let body = reader.by_ref().take(length.unwrap_or(0));
        request.body = io::read_to_string(body)?;
        let (status, answer) = (self.answer)(&request);
        let length = answer.len();
        let mut stream = reader.into_inner();
        write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{answer}"
        )?;
        stream.flush()?;
        Ok(stream)
    }
}
