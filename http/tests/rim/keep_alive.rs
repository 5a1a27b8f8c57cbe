//! HTTP/1 connections between requests.

use std::time::Duration;

use emostream_http::{DrainOutcome, Limits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, sink},
    net::TcpSocket,
    time::{sleep, timeout},
};

use crate::stage::{Client, DEADLINE, LARGE_BYTES, Running};

const ALIVE: &str = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn who_says_that_it_sends_no_more_still_gets_its_answer() {
    let running = Running::start(Limits::default()).await;
    let mut client = running.connect().await;
    client.send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    running.entered.notified().await;
    client.0.shutdown().await.unwrap();
    running.gate.notify_one();
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("done"), "{answer}");
}

#[tokio::test]
async fn a_request_whose_beginning_came_with_the_one_before_is_answered() {
    let running = Running::start(Limits::default()).await;
    for cut in 1..ALIVE.len() {
        let (begin, rest) = ALIVE.split_at(cut);
        let mut client = running.connect().await;
        client.send(&[ALIVE, begin].concat()).await;
        client.until("alive\n").await;
        client.send(rest).await;
        let answer = client.until("alive\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{cut}: {answer}");
    }
}

#[tokio::test]
async fn a_body_that_comes_late_after_a_rest_is_read_whole() {
    let running = Running::start(Limits::default()).await;
    let head = "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\n\r\n";
    let mut client = running.connect().await;
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
async fn a_socket_is_taken_over_after_a_rest() {
    let running = Running::start(Limits::default()).await;
    let mut client = running.connect().await;
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
async fn a_head_that_dribbles_after_an_answer_is_ended_and_so_is_one_that_never_begins() {
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let running = Running::start(limits).await;
    for begin in ["", "GET /healthz HT"] {
        let mut client = running.connect().await;
        client.send(&[ALIVE, begin].concat()).await;
        let answer = client.rest().await;
        assert!(answer.ends_with("alive\n"), "{answer}");
    }
    let mut late = running.connect().await;
    late.send(ALIVE).await;
    late.until("alive\n").await;
    late.send("GET /hea").await;
    late.rest().await;
}

/// hyper keeps the buffer of a connection, as large as it ever was.
#[tokio::test]
async fn a_connection_that_got_a_large_response_keeps_no_buffer_of_its_size() {
    const CLIENTS: usize = 50;
    let running = Running::start(Limits::default()).await;
    let (before, mut clients) = (resident_bytes(), Vec::new());
    for _ in 0..CLIENTS {
        let mut client = running.connect().await;
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
async fn a_slow_client_receives_all_of_a_large_response_though_it_takes_longer_than_a_head_may() {
    const READ_BYTES: usize = 64 << 10;
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let running = Running::start(limits).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(READ_BYTES as u32).unwrap();
    let mut client = Client(socket.connect(running.address).await.unwrap());
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

/// hyper alone waits for the end of a first head until the deadline of the drain.
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
        let running = Running::start(Limits::default()).await;
        let mut client = running.connect().await;
        if !before.is_empty() {
            client.send(before).await;
            client.until("alive\n").await;
        }
        client.send(begin).await;
        // Until the server has read it.
        sleep(Duration::from_millis(100)).await;
        let drained = timeout(AT_ONCE, running.stop()).await;
        assert_eq!(drained, Ok(DrainOutcome { remaining: 0 }), "{begin:?}");
    }
}

#[tokio::test]
async fn a_drain_ends_a_connection_that_rests() {
    let running = Running::start(Limits::default()).await;
    let mut client = running.connect().await;
    client.send(ALIVE).await;
    client.until("alive\n").await;
    running.shutdown.cancel();
    client.rest().await;
    drop(client);
    assert_eq!(running.stop().await, DrainOutcome { remaining: 0 });
}
