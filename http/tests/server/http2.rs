//! Tests of HTTP/2 and of its limits for clients.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use emostream_http::{DrainOutcome, Limits};
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use hyper::{HeaderMap, Method, Request, StatusCode, header::CONTENT_LENGTH};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    fixture::{DEADLINE, LARGE_BYTES, TestServer},
    identity::{CertificateDir, Pair},
};

/// A client, and the task of its connection.
struct Http2Client {
    sender: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

/// A response whose body was read to its end.
struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Http2Client {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self::by(&Builder::new(), stream).await
    }

    async fn by(
        builder: &Builder,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        let ended = tokio::spawn(connection);
        Self { sender, ended }
    }

    async fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// Sends a request and its body, and ends the body if `end` is set. Returns the head of the response and its unread
    /// body.
    async fn begin(
        &self,
        request: Request<()>,
        body: &str,
        end: bool,
    ) -> Result<(HeaderMap, StatusCode, RecvStream), h2::Error> {
        let talking = async {
            let mut sender = self.sender.clone().ready().await?;
            let (answer, mut sending) = sender.send_request(request, end && body.is_empty())?;
            if !body.is_empty() {
                sending.send_data(Bytes::copy_from_slice(body.as_bytes()), end)?;
            }
            let (head, body) = answer.await?.into_parts();
            // `sending` is kept until the response has arrived, since dropping an open stream resets it.
            drop(sending);
            Ok((head.headers, head.status, body))
        };
        timeout(DEADLINE, talking).await.expect("an answer")
    }

    async fn request(&self, request: Request<()>, body: &str) -> Result<Response, h2::Error> {
        let (headers, status, mut receiving) = self.begin(request, body, true).await?;
        let mut body = Vec::new();
        while let Some(piece) = timeout(DEADLINE, receiving.data()).await.expect("more") {
            let piece = piece?;
            receiving.flow_control().release_capacity(piece.len())?;
            body.extend(piece);
        }
        let body = String::from_utf8(body).unwrap();
        Ok(Response {
            status,
            headers,
            body,
        })
    }

    async fn get(&self, path: &str) -> Result<Response, h2::Error> {
        self.request(to(Method::GET, path), "").await
    }
}

fn to(method: Method, path: &str) -> Request<()> {
    let uri = format!("http://h{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

#[tokio::test]
async fn http2_is_used_by_prior_knowledge_and_by_alpn() {
    let pair = Pair::new();
    let plain = TestServer::start(Limits::default()).await;
    let secure =
        TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default()).await;
    let stream = secure
        .connect_by(&pair.trusted(&["h2", "http/1.1"]))
        .await
        .0;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    for client in [
        Http2Client::to(plain.address).await,
        Http2Client::over(stream).await,
    ] {
        let echo = client
            .request(to(Method::POST, "/echo"), "body")
            .await
            .unwrap();
        assert_eq!((echo.status, &*echo.body), (StatusCode::OK, "body"));
        assert_eq!(echo.headers[CONTENT_LENGTH], "4");
        assert_eq!(client.get("/healthz?x=1").await.unwrap().body, "alive\n");
        let head = client
            .request(to(Method::HEAD, "/healthz"), "")
            .await
            .unwrap();
        assert_eq!(
            (&head.headers[CONTENT_LENGTH], &*head.body),
            (&"6".parse().unwrap(), "")
        );
        let unknown = client.get("/nothing").await.unwrap();
        assert_eq!(unknown.status, 404);
        assert!(unknown.body.contains(r#""title":"Not Found""#));
        let method = client
            .request(to(Method::DELETE, "/metrics"), "")
            .await
            .unwrap();
        assert_eq!(
            (method.status, &method.headers["allow"]),
            (
                StatusCode::METHOD_NOT_ALLOWED,
                &"GET, HEAD".parse().unwrap()
            )
        );
    }
}

#[tokio::test]
async fn a_long_response_is_complete() {
    let server = TestServer::start(Limits::default()).await;
    let help = "long ".repeat(20_000);
    let counter = prometheus::IntCounter::new("emostream_long_total", &help).unwrap();
    server.registry.register(Box::new(counter)).unwrap();
    let client = Http2Client::to(server.address).await;
    let metrics = client.get("/metrics").await.unwrap();
    assert_eq!(
        metrics.headers[CONTENT_LENGTH],
        metrics.body.len().to_string()
    );
    assert!(metrics.body.contains(help.trim_end()) && metrics.body.ends_with("_total 0\n"));
}

#[tokio::test]
async fn bodies_have_the_limits_of_http1_and_the_connection_stays_open() {
    let server = TestServer::start(Limits::default()).await;
    let client = Http2Client::to(server.address).await;
    let mut announced = to(Method::POST, "/echo");
    announced.headers_mut().insert(CONTENT_LENGTH, 11.into());
    let announced = client.begin(announced, "", false).await.unwrap();
    assert_eq!(announced.1, 413);
    let large = client
        .request(to(Method::POST, "/echo"), "0123456789A")
        .await
        .unwrap();
    assert_eq!(large.status, 413);
    let slow = client
        .begin(to(Method::POST, "/echo"), "abc", false)
        .await
        .unwrap();
    assert_eq!(slow.1, 408);
    let exactly = client
        .request(to(Method::POST, "/echo"), "0123456789")
        .await
        .unwrap();
    assert_eq!(exactly.body, "0123456789");
}

#[tokio::test]
async fn a_request_must_have_one_host_header_in_http2_too() {
    let server = TestServer::start(Limits::default()).await;
    let client = Http2Client::to(server.address).await;
    for (host, status) in [(None, 200), (Some("h"), 200), (Some("other"), 400)] {
        let mut request = to(Method::GET, "/healthz");
        if let Some(host) = host {
            request.headers_mut().insert("host", host.parse().unwrap());
        }
        let response = client.request(request, "").await.unwrap();
        assert_eq!(response.status, status, "{host:?}");
    }
}

#[tokio::test]
async fn concurrent_requests_beyond_the_first_need_permits() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let client = Http2Client::to(server.address).await;
    // The gate is never notified, so three requests stay in flight: the first, and two that need permits.
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut sender = client.sender.clone().ready().await.unwrap();
        slow.push(sender.send_request(to(Method::GET, "/slow"), true).unwrap());
        timeout(DEADLINE, server.entered.notified()).await.unwrap();
    }
    let crowded = client.get("/healthz").await.unwrap();
    assert_eq!(crowded.status, 503);
    assert!(crowded.headers.contains_key("retry-after"));
    assert!(crowded.headers.contains_key("x-request-id"));
    // The first request of another connection needs no permit.
    let other = Http2Client::to(server.address).await;
    assert_eq!(other.get("/healthz").await.unwrap().status, 200);
    drop(slow);
    let admitted = async {
        while client.get("/healthz").await.unwrap().status != 200 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, admitted).await.unwrap();
}

#[tokio::test]
async fn a_drain_finishes_requests_in_flight_and_sends_goaway_to_idle_clients() {
    let server = TestServer::start(Limits::default()).await;
    let (busy, idle) = (
        Http2Client::to(server.address).await,
        Http2Client::to(server.address).await,
    );
    idle.get("/healthz").await.unwrap();
    let (_, _, mut stream) = busy
        .begin(to(Method::GET, "/stream"), "", true)
        .await
        .unwrap();
    let mut sender = busy.sender.clone().ready().await.unwrap();
    let (slow, _) = sender.send_request(to(Method::GET, "/slow"), true).unwrap();
    timeout(DEADLINE, server.entered.notified()).await.unwrap();
    let gate = server.gate.clone();
    let stopping = tokio::spawn(server.stop());
    timeout(DEADLINE, idle.ended)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    gate.notify_one();
    assert_eq!(slow.await.unwrap().status(), 200);
    let mut streamed = Vec::new();
    while let Some(piece) = timeout(DEADLINE, stream.data()).await.unwrap() {
        streamed.extend(piece.unwrap());
    }
    assert_eq!(streamed, b"first\nbye\n");
    drop((sender, stream, busy));
    assert_eq!(stopping.await.unwrap(), DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_response_that_is_not_read_closes_its_connection() {
    let limits = Limits {
        write_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    // The client reads the connection, but does not open the flow-control window of the stream.
    let deaf = Http2Client::by(Builder::new().initial_window_size(0), stream).await;
    let (_, status, _body) = deaf
        .begin(to(Method::GET, "/healthz"), "", true)
        .await
        .unwrap();
    assert_eq!(status, 200);
    timeout(DEADLINE, deaf.ended)
        .await
        .expect("it ends")
        .unwrap()
        .ok();
    // A stream without data to send does not time out.
    let patient = Http2Client::to(server.address).await;
    let (_, _, mut stream) = patient
        .begin(to(Method::GET, "/stream"), "", true)
        .await
        .unwrap();
    assert_eq!(stream.data().await.unwrap().unwrap(), "first\n");
    let more = timeout(Duration::from_millis(500), stream.data()).await;
    assert!(more.is_err(), "it goes on: {more:?}");
}

/// hyper has the end of a response in its buffers before the client has received it. The connection must not be closed
/// as idle then.
#[tokio::test]
async fn a_connection_is_not_idle_while_the_end_of_a_response_waits_for_a_slow_client() {
    const LAST_BYTES: usize = 1000;
    let limits = Limits {
        head: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut window = Builder::new();
    window
        .initial_window_size((LARGE_BYTES - LAST_BYTES) as u32)
        .initial_connection_window_size(2 * LARGE_BYTES as u32);
    let slow = Http2Client::by(&window, stream).await;
    let request = to(Method::GET, "/large");
    let (_, _, mut body) = slow.begin(request, "", true).await.unwrap();
    let mut received = 0;
    while received < LARGE_BYTES - LAST_BYTES {
        received += body.data().await.unwrap().unwrap().len();
    }
    // The pause is longer than the timeouts of a head and of a GOAWAY.
    sleep(Duration::from_secs(2)).await;
    body.flow_control().release_capacity(received).unwrap();
    while let Some(piece) = timeout(DEADLINE, body.data()).await.unwrap() {
        received += piece.unwrap().len();
    }
    assert_eq!(received, LARGE_BYTES);
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_431_in_http2_too() {
    let server = TestServer::start(Limits::default()).await;
    let client = Http2Client::to(server.address).await;
    let mut request = to(Method::GET, "/healthz");
    let cookie = "c".repeat(20 << 10);
    request
        .headers_mut()
        .insert("cookie", cookie.parse().unwrap());
    assert_eq!(client.request(request, "").await.unwrap().status, 431);
    assert_eq!(client.get("/healthz").await.unwrap().status, 200);
}

/// Frames that the tests encode themselves (RFC 9113, 4.1), since client libraries do not send such frames.
mod raw {
    pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    /// The header fields of `GET http://h/healthz` in HPACK. None of them is added to the dynamic table.
    pub(super) const ALIVE: &[u8] = b"\x82\x86\x04\x08/healthz\x01\x01h";

    pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    pub(super) fn begin() -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
    }
}
use raw::{
    ALIVE, CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, frame,
};

/// Sends `begin`, and then repeatedly the bytes that `again` returns, until the server has closed the connection. Reads
/// at the same time.
async fn flood(address: SocketAddr, begin: &[u8], again: impl Fn(u32) -> Vec<u8>) {
    let (mut reads, mut writes) = TcpStream::connect(address).await.unwrap().into_split();
    let reading = tokio::spawn(async move { reads.read_to_end(&mut Vec::new()).await });
    let writing = async {
        let mut sent = writes.write_all(begin).await;
        let mut number = 0;
        while sent.is_ok() && !reading.is_finished() {
            sent = writes.write_all(&again(number)).await;
            number += 1;
        }
    };
    timeout(DEADLINE, writing)
        .await
        .expect("the flood is ended");
    // The connection may end with an error, since the server may reset it.
    let _ = timeout(DEADLINE, reading).await.expect("it is closed");
}

#[tokio::test]
async fn floods_close_their_own_connection_only() {
    let server = TestServer::start(Limits::default()).await;
    let decent = Http2Client::to(server.address).await;
    let ask = HEADERS;
    // The client sends requests and resets each of them at once, a hundred at a time.
    flood(server.address, &raw::begin(), |number| {
        let streams = (number * 100..(number + 1) * 100).map(|stream| stream * 2 + 1);
        let both = |stream| {
            [
                frame(ask, END_HEADERS | END_STREAM, stream, ALIVE),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat()
        };
        streams.flat_map(both).collect()
    })
    .await;
    // The client sends a request head that never ends. The CONTINUATION frames have small fields, no fields, large
    // fields for the dynamic table, or references of one byte each to a field of that table.
    let open_head = [raw::begin(), frame(ask, END_STREAM, 1, ALIVE)].concat();
    let index_a_field = [
        b"\x40\x01x\x7f\x81\x1e".to_vec(),
        vec![b'x'; 4000 - 2 - 1 - 32],
    ]
    .concat();
    let bomb = frame(CONTINUATION, 0, 1, &vec![0xbe; 16_000]);
    for piece in [
        frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y"),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, 0, 1, &index_a_field),
        bomb,
    ] {
        flood(server.address, &open_head, |_| piece.repeat(100)).await;
    }
    // The client opens more streams than the limit, and does not end them.
    flood(server.address, &raw::begin(), |number| {
        let streams = (number * 100..(number + 1) * 100).map(|stream| stream * 2 + 1);
        let post = [&b"\x83\x86\x04\x05/echo\x01\x01h"[..]].concat();
        streams
            .flat_map(|stream| frame(ask, END_HEADERS, stream, &post))
            .collect()
    })
    .await;
    // The client sends bytes that are not HTTP/2.
    flood(server.address, PREFACE, |_| vec![0xff; 1000]).await;
    flood(server.address, &raw::begin(), |_| {
        frame(CONTINUATION, 0, 7, b"")
    })
    .await;

    assert_eq!(decent.get("/healthz").await.unwrap().body, "alive\n");
    drop(decent);
    assert_eq!(server.stop().await, DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_client_that_sends_pings_and_does_not_read_is_disconnected() {
    let limits = Limits {
        write_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let mut deaf = TcpStream::connect(server.address).await.unwrap();
    deaf.write_all(&raw::begin()).await.unwrap();
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
    let flood = async { while deaf.write_all(&pings).await.is_ok() {} };
    timeout(DEADLINE, flood).await.unwrap();
}

#[tokio::test]
async fn slow_prefaces_slow_heads_and_idle_connections_are_closed() {
    let limits = Limits {
        head: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let head = [raw::begin(), frame(HEADERS, END_STREAM, 1, ALIVE)].concat();
    let request_frame = frame(HEADERS, END_HEADERS | END_STREAM, 1, ALIVE);
    let pong = frame(PING, 1, 0, &[0; 8]);
    let dribble = frame(CONTINUATION, 0, 1, b"\x00\x01x\x01y");
    for (begin, drop) in [
        (PREFACE[..5].to_vec(), Vec::new()),
        (PREFACE.to_vec(), Vec::new()),
        (raw::begin(), Vec::new()),
        (raw::begin(), pong.clone()),
        (head, dribble),
        ([raw::begin(), request_frame].concat(), Vec::new()),
    ] {
        // The client reacts to no frame of the server, not even to the GOAWAY.
        let (mut reads, mut writes) = TcpStream::connect(server.address)
            .await
            .unwrap()
            .into_split();
        writes.write_all(&begin).await.unwrap();
        let slow = tokio::spawn(async move {
            while writes.write_all(&drop).await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let ended = timeout(DEADLINE, reads.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "{begin:?} is borne");
        slow.abort();
    }
    // A client that reads receives a GOAWAY.
    let polite = Http2Client::to(server.address).await;
    polite.get("/healthz").await.unwrap();
    timeout(DEADLINE, polite.ended)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn the_preface_is_detected_in_any_fragments() {
    let server = TestServer::start(Limits::default()).await;
    let mut cut = TcpStream::connect(server.address).await.unwrap();
    cut.set_nodelay(true).unwrap();
    for byte in raw::begin() {
        cut.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut kind = [0; 9];
    timeout(DEADLINE, cut.read_exact(&mut kind))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kind[3], raw::SETTINGS);
    for (almost, status) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", "400"),
        (
            "PRI * HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
            "404",
        ),
        (
            "PUT /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
            "405",
        ),
    ] {
        let response = server.request(almost).await;
        assert_eq!(
            response.split(' ').nth(1),
            Some(status),
            "{almost:?}: {response}"
        );
    }
}
