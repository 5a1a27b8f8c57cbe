//! Tests of HTTP/1.1 without TLS.

use std::time::Duration;

use emostream_http::{DrainOutcome, Limits, listen};
use prometheus::IntCounter;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::fixture::{DEADLINE, TestServer};

#[tokio::test]
async fn pipelined_requests_get_responses_in_order_on_one_connection() {
    let server = TestServer::start(Limits::default()).await;
    let one = |body: &str| {
        format!(
            "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut client = server.connect().await;
    client
        .send(&[one("first"), one("second"), one("third")].concat())
        .await;
    for body in ["first", "second", "third"] {
        let answer = client.until(body).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    client
        .send("POST /echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    client.send("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await;
    assert!(
        client
            .until("abcde")
            .await
            .contains("content-length: 5\r\n")
    );
}

#[tokio::test]
async fn a_path_with_a_route_is_served_and_an_unknown_one_is_404() {
    let server = TestServer::start(Limits::default()).await;
    let ask = |line: &str| format!("{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let alive = server.request(&ask("GET /healthz?x=1")).await;
    assert!(alive.ends_with("\r\n\r\nalive\n"), "{alive}");
    let unknown = server.request(&ask("GET /nothing")).await;
    assert!(
        unknown.starts_with("HTTP/1.1 404 Not Found\r\n"),
        "{unknown}"
    );
    assert!(unknown.contains("content-type: application/problem+json\r\n"));
    assert!(unknown.contains(r#""status":404"#) && unknown.contains(r#""title":"Not Found""#));
    // A browser gets a page, which does not repeat the requested path.
    let browser = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = server
        .request(&format!(
            "GET /nothing HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{browser}\r\n\r\n"
        ))
        .await;
    assert!(page.starts_with("HTTP/1.1 404 Not Found\r\n"), "{page}");
    assert!(page.contains("content-type: text/html"), "{page}");
    assert!(page.contains("<title>Not found"), "{page}");
    assert!(!page.contains("/nothing"), "{page}");
    let method = server.request(&ask("DELETE /metrics")).await;
    assert!(method.starts_with("HTTP/1.1 405 "), "{method}");
    assert!(method.contains("allow: GET, HEAD\r\n"));
    let head = server.request(&ask("HEAD /healthz")).await;
    assert!(
        head.contains("content-length: 6\r\n") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn readiness_with_its_reason_and_metrics_are_served() {
    let server = TestServer::start(Limits::default()).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let component = server.readiness.component("ingest");
    let waiting = server.request(&ask("/readyz")).await;
    assert!(waiting.starts_with("HTTP/1.1 503 "), "{waiting}");
    assert!(waiting.ends_with("ingest: starting\n"));
    component.ready();
    assert!(
        server
            .request(&ask("/readyz"))
            .await
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    let counter = IntCounter::new("emostream_test_total", "A test.").unwrap();
    server.registry.register(Box::new(counter.clone())).unwrap();
    counter.inc();
    let metrics = server.request(&ask("/metrics")).await;
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4\r\n"),
        "{metrics}"
    );
    assert!(metrics.ends_with("\nemostream_test_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_announced_or_not() {
    let server = TestServer::start(Limits::default()).await;
    let head = "POST /echo HTTP/1.1\r\nhost: h\r\nconnection: close\r\n";
    let announced = server
        .request(&format!("{head}content-length: 999999999999\r\n\r\n"))
        .await;
    assert!(
        announced.starts_with("HTTP/1.1 413 Payload Too Large\r\n"),
        "{announced}"
    );
    assert!(announced.contains("more than 10 bytes"));
    let chunks = "6\r\nabcdef\r\n".repeat(2);
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    assert!(server.request(&chunked).await.starts_with("HTTP/1.1 413 "));
    let exactly = server
        .request(&format!("{head}content-length: 10\r\n\r\n0123456789"))
        .await;
    assert!(exactly.ends_with("0123456789"), "{exactly}");
}

#[tokio::test]
async fn a_client_whose_large_body_is_refused_reads_the_response() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.connect().await;
    let body = "x".repeat(2 << 20);
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(&head).await;
    client.send(&body).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_refused_before_it_sends() {
    let server = TestServer::start(Limits::default()).await;
    let head = "POST /echo HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n";
    let mut client = server.connect().await;
    client
        .send(&format!("{head}content-length: 11\r\n\r\n"))
        .await;
    assert!(client.until("\r\n").await.starts_with("HTTP/1.1 413 "));
    let mut client = server.connect().await;
    client
        .send(&format!("{head}content-length: 2\r\n\r\n"))
        .await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    client.send("ok").await;
    assert!(
        client
            .until("\r\n\r\nok")
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_408_and_harmless_if_the_client_disconnects() {
    let server = TestServer::start(Limits::default()).await;
    let lie = "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 10\r\n\r\nabc";
    let answer = server.request(lie).await;
    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{answer}"
    );
    let mut disconnecting = server.connect().await;
    disconnecting.send(lie).await;
    drop(disconnecting);
    for broken in [
        "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n",
        "NONSENSE\r\n\r\n",
        "\u{1}\u{2}\r\n\r\n",
    ] {
        let answer = server.request(broken).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{broken:?}: {answer}");
    }
    let chunked = "POST /echo HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    let answer = server.request(chunked).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(server.stop().await, DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_slow_head_and_an_idle_connection_are_closed() {
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let mut slow = server.connect().await;
    slow.send("POST /echo HT").await;
    slow.rest().await;
    let mut idle = server.connect().await;
    idle.send("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let answer = idle.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_431() {
    let server = TestServer::start(Limits::default()).await;
    let cookie = "c".repeat(32 << 10);
    let answer = server
        .request(&format!(
            "GET / HTTP/1.1\r\nhost: h\r\ncookie: {cookie}\r\n\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_gets_503_until_another_ends() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let greeting = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for client in [&mut first, &mut second] {
        client.send(greeting).await;
        client.until("alive\n").await;
    }
    let refused = server.connect().await.rest().await;
    assert!(
        refused.starts_with("HTTP/1.1 503 Service Unavailable\r\nretry-after: "),
        "{refused}"
    );
    assert!(refused.contains("connection: close\r\n"));
    assert!(refused.contains("\r\nx-request-id: "), "{refused}");
    assert!(
        refused.contains(r#""detail":"too many connections"#),
        "{refused}"
    );
    drop(first);
    let admitted = async {
        loop {
            let mut next = server.connect().await;
            if next.0.write_all(greeting.as_bytes()).await.is_ok()
                && next.until("\r\n").await.starts_with("HTTP/1.1 200 ")
            {
                break;
            }
        }
    };
    timeout(DEADLINE, admitted).await.unwrap();
    second.send(greeting).await;
    second.until("alive\n").await;
}

#[tokio::test]
async fn a_drain_finishes_requests_in_flight_and_accepts_no_more() {
    let server = TestServer::start(Limits::default()).await;
    let mut busy = server.connect().await;
    busy.send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    timeout(DEADLINE, server.entered.notified()).await.unwrap();
    let mut idle = server.connect().await;
    idle.send("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await;
    idle.until("alive\n").await;
    let (gate, address) = (server.gate.clone(), server.address);
    let stopping = tokio::spawn(server.stop());
    assert_eq!(idle.rest().await, "", "an idle connection is closed");
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    timeout(DEADLINE, refused).await.unwrap();
    gate.notify_one();
    assert!(busy.rest().await.ends_with("\r\n\r\ndone"));
    drop((idle, busy));
    assert_eq!(stopping.await.unwrap(), DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_with_the_remaining_connections() {
    let limits = Limits {
        drain: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let mut stuck = server.connect().await;
    stuck.send("GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await;
    timeout(DEADLINE, server.entered.notified()).await.unwrap();
    assert_eq!(server.stop().await, DrainOutcome { remaining: 1 });
}

#[tokio::test]
async fn a_stream_is_sent_chunk_by_chunk_and_ended_by_its_handler() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.connect().await;
    client.send("GET /stream HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let head = client.until("first\n\r\n").await;
    assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
    let stopping = tokio::spawn(server.stop());
    assert_eq!(client.rest().await, "4\r\nbye\n\r\n0\r\n\r\n");
    drop(client);
    assert_eq!(stopping.await.unwrap(), DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_detached_socket_keeps_its_permit() {
    let limits = Limits {
        connections: 1,
        drain: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let mut client = server.connect().await;
    client
        .send(
            "GET /upgrade HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nahead",
        )
        .await;
    let answer = client.until("ahead").await;
    assert!(
        answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{answer}"
    );
    client.send("more").await;
    client.until("more").await;
    let refused = server.connect().await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert_eq!(server.stop().await, DrainOutcome { remaining: 1 });
}

/// The last request takes the socket over. The client sends all requests at once, so the responses to the previous
/// requests are still being sent when the server handles the last one.
#[tokio::test]
async fn a_socket_is_taken_over_after_the_previous_responses_are_sent() {
    let server = TestServer::start(Limits::default()).await;
    let client = server.connect().await;
    let http_request = "GET /nothing HTTP/1.1\r\nhost: h\r\n\r\n";
    // The responses are larger than the buffers of both sockets together.
    const TIMES: usize = 50_000;
    let last = "GET /upgrade HTTP/1.1\r\nhost: h\r\n\r\nahead";
    let all = [&http_request.repeat(TIMES), last].concat();
    let (mut reads, mut writes) = tokio::io::split(client.0);
    let writing = tokio::spawn(async move {
        writes.write_all(all.as_bytes()).await.unwrap();
        writes
    });
    let mut answers = Vec::new();
    while !answers.ends_with(b"ahead") {
        timeout(DEADLINE, reads.read_buf(&mut answers))
            .await
            .unwrap()
            .unwrap();
    }
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 404 ").count(), TIMES);
    assert_eq!(answers.matches("HTTP/1.1 101 ").count(), 1);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn connections_above_the_rate_get_503() {
    let limits = Limits {
        connection_rate: Some(1.0 / 3600.0),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let mut first = server.connect().await;
    first.send("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await;
    first.until("alive\n").await;
    let refused = server.connect().await.rest().await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
    assert!(refused.contains("new connections"), "{refused}");
    // Connections that were accepted before stay open.
    first.send("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await;
    first.until("alive\n").await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_responses_is_disconnected() {
    let limits = Limits {
        write_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = TestServer::start(limits).await;
    let mut deaf = server.connect().await;
    let requests = "GET /metrics-of-nothing HTTP/1.1\r\nhost: h\r\n\r\n".repeat(1000);
    // The responses fill the buffers of both sockets. Then the server closes the connection, and the client's write
    // fails.
    let flood = async { while deaf.0.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(DEADLINE, flood).await.unwrap();
}

#[tokio::test]
async fn a_request_must_have_one_host_header() {
    let server = TestServer::start(Limits::default()).await;
    for (version, hosts, status) in [
        ("1.1", "", 400),
        ("1.1", "host: a\r\nhost: a\r\n", 400),
        ("1.1", "host: a\r\n", 200),
        ("1.0", "", 200),
        ("1.0", "host: a\r\nhost: b\r\n", 400),
    ] {
        let request = format!("GET /healthz HTTP/{version}\r\n{hosts}connection: close\r\n\r\n");
        let answer = server.request(&request).await;
        let response = answer.split(' ').nth(1);
        assert_eq!(response, Some(&*status.to_string()), "{request}: {answer}");
    }
}

#[tokio::test]
async fn connections_at_one_moment_fit_the_accept_queue() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // The test accepts no connections, so they wait in the accept queue. If the queue was too short, each further
    // connection would need seconds.
    let mut crowd = Vec::new();
    for _ in 0..500 {
        let connected = timeout(DEADLINE, TcpStream::connect(address)).await;
        crowd.push(connected.unwrap().unwrap());
    }
}

#[tokio::test]
async fn every_response_to_a_request_has_an_id() {
    let server = TestServer::start(Limits::default()).await;
    let ask = |path: &str, id: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: h\r\n{id}connection: close\r\n\r\n")
    };
    for path in ["/healthz", "/nothing"] {
        let answer = server.request(&ask(path, "x-request-id: mine-1\r\n")).await;
        assert!(answer.contains("\r\nx-request-id: mine-1\r\n"), "{answer}");
        for id in ["", "x-request-id: not plain\r\n"] {
            let answer = server.request(&ask(path, id)).await;
            let made = answer.split("\r\nx-request-id: ").nth(1);
            let made = made.and_then(|rest| rest.split("\r\n").next());
            assert_eq!(made.map(str::len), Some(16), "{answer}");
        }
    }
    let mut client = server.connect().await;
    let upgrade = "GET /upgrade HTTP/1.1\r\nhost: h\r\nx-request-id: mine-2\r\n\r\n";
    client.send(upgrade).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.contains("x-request-id: mine-2\r\n"), "{head}");
    assert!(!head.contains("content-length"), "{head}");
}
