//! Tests with connections that use resources and never complete a request: slow heads, slow bodies, and idle
//! connections. Other clients are served, and the server closes each of these connections.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use emostream_http::Limits;
use emostream_ingest::Config;

use crate::fixture::{DEADLINE, TestService, array};

const SLOW_HEADS: usize = 200;
const SLOW_BODIES: usize = 200;
const IDLE: usize = 1000;

/// Number of connections that are left for other clients.
const SPARE: usize = 16;

/// Timeout for receiving a head or a body.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

const HEAD: &[u8] = b"POST /v1/reactions HTTP/1.1\r\nhost: h\r\n";
const CHUNKED: &[u8] = b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
const READING: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

struct SlowClient {
    stream: TcpStream,
    /// Bytes that the client sends repeatedly.
    drop: &'static [u8],
    response: Vec<u8>,
    ended: bool,
}

impl SlowClient {
    fn new(service: &TestService, begin: &[&[u8]], drop: &'static [u8]) -> Self {
        let mut stream = service.connect();
        stream.write_all(&begin.concat()).unwrap();
        if begin.contains(&CHUNKED) {
            let mut response = [0; READING.len()];
            stream.read_exact(&mut response).unwrap();
            assert_eq!(response, READING, "the server reads the body");
        }
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            drop,
            response: Vec::new(),
            ended: false,
        }
    }

    /// Sends some more bytes, and checks whether the server has closed the connection.
    fn step(&mut self) {
        // The result of the write is ignored. It fails if the server has closed the connection, and the read below
        // detects this case.
        let _ = self.stream.write_all(self.drop);
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(read) => self.response.extend(&bytes[..read]),
            Err(error) => self.ended |= error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Lets all clients send bytes until the server has closed all connections.
fn drive(clients: &mut [SlowClient]) {
    let start = Instant::now();
    while clients.iter().any(|client| !client.ended) {
        assert!(start.elapsed() < DEADLINE, "some are never closed");
        let on = clients.iter_mut().filter(|client| !client.ended);
        on.for_each(SlowClient::step);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn other_clients_are_served_and_every_slow_client_is_closed() {
    let all = SLOW_HEADS + SLOW_BODIES + IDLE;
    let config = Config {
        flush: Duration::from_millis(20),
        body_time: CLIENT_TIMEOUT,
        // If each slow body reserved permits for the maximum number of reactions, no permit would be left for other
        // clients.
        buffer_reactions: 1000 * SLOW_BODIES as u32,
        ..Config::default()
    };
    let limits = Limits {
        connections: (all + SPARE) as u32,
        head: CLIENT_TIMEOUT,
        ..Limits::default()
    };
    let mut service = TestService::limited(config, limits);
    let client = |kind| match kind {
        0 => SlowClient::new(&service, &[], b""),
        1 => SlowClient::new(&service, &[HEAD], b"x: y\r\n"),
        _ => SlowClient::new(&service, &[HEAD, CHUNKED], b"1\r\n \r\n"),
    };
    let kinds = [(0, IDLE), (1, SLOW_HEADS), (2, SLOW_BODIES)];
    let mut clients: Vec<SlowClient> = kinds
        .into_iter()
        .flat_map(|(kind, count)| (0..count).map(move |_| kind))
        .map(client)
        .collect();

    let over = AtomicBool::new(false);
    let mut served = 0;
    thread::scope(|scope| {
        let driver = scope.spawn(|| {
            drive(&mut clients);
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) && !driver.is_finished() {
            let response = service.post("/v1/reactions?wait=stored", array(2));
            assert_eq!(response.status, 200, "{response:?}");
            served += 2;
        }
    });
    assert!(served > 0);
    let late = |client: &&SlowClient| client.response.starts_with(b"HTTP/1.1 408 ");
    assert_eq!(clients.iter().filter(late).count(), SLOW_BODIES);
    // The server has closed all connections, although the clients have not closed their side, so the service can stop.
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), served);
}

#[test]
fn unfinished_large_bodies_refuse_only_large_ones() {
    let service = TestService::start(Config {
        flush: Duration::from_millis(20),
        bodies_bytes: 100_000,
        ..Config::default()
    });
    let unfinished = |sent: usize| {
        let mut stream = service.connect();
        let head = [HEAD, b"content-length: 200000\r\n\r\n"].concat();
        stream.write_all(&head).unwrap();
        stream.write_all(&b" ".repeat(sent)).unwrap();
        stream
    };
    let mut unfinished_bodies: Vec<TcpStream> = (0..3).map(|_| unfinished(90_000)).collect();
    // The budget is enough for only one of the three bodies. A body that exceeds it gets 503, and its bytes are
    // released for another body.
    let mut refused = 0;
    let start = Instant::now();
    while refused < 2 {
        assert!(start.elapsed() < DEADLINE, "{refused} were refused");
        refused = 0;
        for stream in &mut unfinished_bodies {
            stream.set_nonblocking(true).unwrap();
            let mut bytes = [0; 12];
            if stream.peek(&mut bytes).is_ok() {
                assert_eq!(&bytes, b"HTTP/1.1 503");
                refused += 1;
            }
        }
        assert_eq!(service.post("/v1/reactions", array(50)).status, 202);
    }
    let large = format!("[{}]", " ".repeat(50_000));
    assert_eq!(service.post("/v1/reactions", &large).status, 503);
    drop(unfinished_bodies);
    let start = Instant::now();
    while service.post("/v1/reactions", &large).status != 202 {
        assert!(start.elapsed() < DEADLINE, "the budget is not released");
    }
}
