//! A server with sample handlers on a free port, and its clients.

use std::{
    convert::Infallible,
    io::{ErrorKind, IoSlice},
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router, response::IntoResponse, routing::any};
use bytes::Bytes;
use emostream_http::{
    Admin, Body, BodyLimits, BodyReader, DetachedConnection, DrainOutcome, Limits, Listener,
    Problem, Readiness, Request, Response, Tls, serve, takeover,
};
use futures_util::stream::poll_fn;
use hyper::{
    StatusCode,
    header::{CONNECTION, UPGRADE},
};
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use prometheus::Registry;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Timeout of the tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

const BODIES: BodyLimits = BodyLimits {
    body_bytes: 10,
    time: Duration::from_millis(300),
    total_bytes: 0,
};

/// Number of bytes that `/large` returns.
pub(crate) const LARGE_BYTES: usize = 4 << 20;

static LARGE: [u8; LARGE_BYTES] = [0; LARGE_BYTES];

/// The sample handlers: `/echo` returns the body (at most 10 bytes), `/large` returns [`LARGE_BYTES`] bytes, `/slow`
/// waits until the test notifies its gate, `/stream` sends until the shutdown, `/upgrade` takes the socket over and
/// echoes bytes.
struct Sample {
    bodies: BodyReader,
    gate: Arc<Notify>,
    entered: Arc<Notify>,
    shutdown: CancellationToken,
}

impl Sample {
    fn router(self) -> Router {
        let sample = Arc::new(self);
        let respond = async move |Extension(peer): Extension<SocketAddr>, request: Request| {
            sample.respond(request, peer).await
        };
        let paths = ["/echo", "/large", "/slow", "/stream", "/upgrade"].into_iter();
        paths.fold(Router::new(), |router, path| {
            router.route(path, any(respond.clone()))
        })
    }

    async fn respond(&self, mut request: Request, peer: SocketAddr) -> Response {
        assert!(peer.ip().is_loopback());
        match request.uri().path() {
            "/echo" => match self.bodies.read(&mut request).await {
                Ok(body) => Response::new(Body::from(body.to_vec())),
                Err(error) => Problem::from(error).into_response(),
            },
            "/large" => Response::new(Body::from(Bytes::from_static(&LARGE))),
            "/slow" => {
                self.entered.notify_one();
                self.gate.notified().await;
                Response::new(Body::from("done"))
            }
            "/stream" => {
                let (sender, mut pieces) = mpsc::channel(1);
                let shutdown = self.shutdown.clone();
                tokio::spawn(async move {
                    sender.send(Bytes::from_static(b"first\n")).await.unwrap();
                    shutdown.cancelled().await;
                    sender.send(Bytes::from_static(b"bye\n")).await.unwrap();
                });
                let pieces = poll_fn(move |cx| {
                    let piece = pieces.poll_recv(cx);
                    piece.map(|piece| piece.map(Ok::<Bytes, Infallible>))
                });
                Response::new(Body::from_stream(pieces))
            }
            _ => {
                let mut response = takeover(|detached| {
                    std::thread::spawn(|| echo(detached));
                });
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(CONNECTION, "upgrade".parse().unwrap());
                headers.insert(UPGRADE, "echo".parse().unwrap());
                response
            }
        }
    }
}

/// Writes the response, then echoes bytes, on a thread of its own.
fn echo(detached: DetachedConnection) {
    let mut stream = detached.stream;
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
    let both = Interest::READABLE | Interest::WRITABLE;
    let registry = poll.registry();
    registry
        .register(&mut SourceFd(&stream.as_raw_fd()), Token(0), both)
        .unwrap();
    let (mut unsent, mut bytes) = ([detached.head, detached.read_ahead].concat(), [0; 64]);
    loop {
        let written = match unsent.is_empty() {
            true => stream.flush().map(|()| 0),
            false => stream.write(&[IoSlice::new(&unsent)]),
        };
        match written {
            Ok(written) => drop(unsent.drain(..written)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        // Backpressure: pending bytes are sent before more are read.
        if unsent.is_empty() && stream.is_flushed() {
            match stream.read(&mut bytes) {
                Ok(read @ 1..) => {
                    unsent.extend_from_slice(&bytes[..read]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
        poll.poll(&mut events, Some(DEADLINE)).unwrap();
    }
}

pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Notify>,
    pub(crate) entered: Arc<Notify>,
    pub(crate) readiness: Readiness,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
    served: JoinHandle<DrainOutcome>,
}

impl TestServer {
    pub(crate) async fn start(limits: Limits) -> Self {
        Self::with_tls(None, limits).await
    }

    pub(crate) async fn with_tls(tls: Option<Tls>, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gate, entered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let shutdown = CancellationToken::new();
        let sample = Sample {
            bodies: BodyReader::new(BODIES),
            gate: gate.clone(),
            entered: entered.clone(),
            shutdown: shutdown.clone(),
        };
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let admin = Admin::new(registry.clone(), readiness.clone());
        let both = sample.router().merge(admin.router());
        let served = tokio::spawn(serve(
            Listener::new(listener, tls),
            both,
            limits,
            shutdown.clone(),
        ));
        Self {
            address,
            gate,
            entered,
            readiness,
            registry,
            shutdown,
            served,
        }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }

    /// Sends bytes on a new connection, and returns all bytes that arrive until the connection ends.
    pub(crate) async fn request(&self, bytes: &str) -> String {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client.rest().await
    }

    pub(crate) async fn stop(self) -> DrainOutcome {
        self.shutdown.cancel();
        timeout(DEADLINE, self.served).await.unwrap().unwrap()
    }
}

pub(crate) struct Client<S = TcpStream>(pub(crate) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Reads up to and including `end`.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = timeout(DEADLINE, self.0.read_u8()).await.unwrap();
            read.push(byte.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&read))));
        }
        String::from_utf8(read).unwrap()
    }

    /// Reads until the connection ends.
    pub(crate) async fn rest(&mut self) -> String {
        let mut read = Vec::new();
        timeout(DEADLINE, self.0.read_to_end(&mut read))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(read).unwrap()
    }
}
