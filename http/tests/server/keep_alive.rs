//! Tests of HTTP/1 connections that stay open between two requests.

use std::time::Duration;

use emostream_http::{DrainOutcome, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, sink},
    net::TcpSocket,
    time::{sleep, timeout},
};

use crate::fixture::{Client, DEADLINE, LARGE_BYTES, TestServer};

const ALIVE: &str = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn a_client_that_has_closed_its_sending_side_gets_its_response() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    server.entered.notified().await;
    client.0.shutdown().await.unwrap();
    server.gate.notify_one();
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn a_request_whose_first_bytes_arrived_with_the_previous_one_is_served() {
    let server = TestServer::start(Limits::default()).await;
    for cut in 1..ALIVE.len() {
        let (begin, rest) = ALIVE.split_at(cut);
        let mut client = server.connect().await;
        client.send(&[ALIVE, begin].concat()).await;
        client.until("alive\n").await;
        client.send(rest).await;
        let answer = client.until("alive\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{cut}: {answer}");
    }
}

#[tokio::test]
async fn a_late_body_on_a_connection_that_was_idle_is_read_whole() {
    let server = TestServer::start(Limits::default()).await;
    let head = "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\n";
    let mut client = server.connect().await;
    client.send(&[ALIVE, head, "abc"].concat()).await;
    client.until("alive\n").await;
    client.send("def").await;
    assert!(client.until("abcdef").await.starts_with("HTTP/1.1 200 "));
    client.send(head).await;
    client.send("ghi").await;
    client.send("jkl").await;
    assert!(client.until("ghijkl").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_socket_is_taken_over_after_an_idle_time() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(ALIVE).await;
    client.until("alive\n").await;
    client
        .send("GET /upgrade HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("\r\nupgrade: echo\r\n"), "{head}");
    client.send("hello").await;
    assert_eq!(client.until("hello").await, "hello");
}

#[tokio::test]
async fn after_a_response_a_slow_head_and_a_missing_one_are_closed() {
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    for begin in ["", "GET /healthz HT"] {
        let mut client = server.connect().await;
        client.send(&[ALIVE, begin].concat()).await;
        let answer = client.rest().await;
        assert!(answer.ends_with("alive\n"), "{answer}");
    }
    let mut late = server.connect().await;
    late.send(ALIVE).await;
    late.until("alive\n").await;
    late.send("GET /hea").await;
    late.rest().await;
}

/// hyper never shrinks the write buffer of a connection, so a large response must not make this buffer large.
#[tokio::test]
async fn a_connection_that_got_a_large_response_keeps_no_buffer_of_its_size() {
    const CLIENTS: usize = 50;
    let server = TestServer::start(Limits::default()).await;
    let (before, mut clients) = (resident_bytes(), Vec::new());
    for _ in 0..CLIENTS {
        let mut client = server.connect().await;
        client.send("GET /large HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let mut response = (&mut client.0).take(LARGE_BYTES as u64);
        let read = tokio::io::copy(&mut response, &mut sink()).await.unwrap();
        assert_eq!(read, LARGE_BYTES as u64);
        clients.push(client);
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < CLIENTS * LARGE_BYTES / 4, "{grown} bytes");
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn a_large_response_may_take_longer_than_the_timeout_of_a_head() {
    const READ_BYTES: usize = 64 << 10;
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(READ_BYTES as u32).unwrap();
    let mut client = Client(socket.connect(server.address).await.unwrap());
    client.send("GET /large HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let mut body = vec![0; READ_BYTES];
    for _ in 0..LARGE_BYTES / READ_BYTES {
        sleep(Duration::from_millis(20)).await;
        let read = timeout(DEADLINE, client.0.read_exact(&mut body)).await;
        assert_eq!(read.unwrap().unwrap(), READ_BYTES);
    }
}

/// hyper alone would wait until the deadline of the drain for the rest of a connection's first request head. The server
/// closes such a connection earlier.
#[tokio::test]
async fn a_drain_does_not_wait_for_a_head_that_is_not_whole() {
    const AT_ONCE: Duration = Duration::from_secs(3);
    let http2 = [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\0\0\0\x04\0\0\0\0\0",
        "\0\0\x64\x01\x05\0\0\0\x01",
    ];
    for (before, begin) in [
        ("", "GET /healthz HT"),
        ("", "GET /healthz HTTP/1.1\r\nhost"),
        (ALIVE, "GET /healthz HT"),
        ("", &*http2.concat()),
    ] {
        let server = TestServer::start(Limits::default()).await;
        let mut client = server.connect().await;
        if !before.is_empty() {
            client.send(before).await;
            client.until("alive\n").await;
        }
        client.send(begin).await;
        // The pause gives the server time to read `begin`.
        sleep(Duration::from_millis(100)).await;
        let drained = timeout(AT_ONCE, server.stop()).await;
        assert_eq!(drained, Ok(DrainOutcome { remaining: 0 }), "{begin:?}");
    }
}

#[tokio::test]
async fn a_drain_closes_an_idle_connection() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send(ALIVE).await;
    client.until("alive\n").await;
    server.shutdown.cancel();
    client.rest().await;
    drop(client);
    assert_eq!(server.stop().await, DrainOutcome { remaining: 0 });
}
