//! Sockets of shards: event streams over each version of HTTP, reconnects, lost clients, and shutdown.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use emostream_log::testing::until;

use crate::{
    clients::{Sse, Subscriber, Ws, connect, get},
    fixture::Fixture,
};

/// Returns all bytes up to the end of the stream.
fn whole(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn ask_for_events(address: std::net::SocketAddr, version: &str) -> TcpStream {
    let mut stream = connect(address);
    let head = format!("GET /v1/rooms/r/events HTTP/{version}\r\nhost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream
}

/// Decodes a complete chunked body (RFC 9112, 7.1).
fn unchunk(mut body: &str) -> String {
    let mut pieces = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let (piece, end) = rest.split_at(size);
        pieces.push_str(piece);
        body = end.strip_prefix("\r\n").unwrap();
        if size == 0 {
            assert_eq!(body, "");
            return pieces;
        }
    }
}

#[test]
fn an_event_stream_is_framed_as_the_http_version_requires() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let chunked = ask_for_events(node.address, "1.1");
    // nginx uses HTTP/1.0 for its upstreams.
    let bare = ask_for_events(node.address, "1.0");
    until("both are there", || {
        node.metric(r#"subscribers{transport="sse"}"#) == 2.0
    });
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    until("both have it", || {
        node.metric(r#"deliveries_total{type="final"}"#) == 2.0
    });
    let stopped = std::thread::spawn(move || node.stop());
    let (chunked, bare) = (whole(chunked), whole(bare));
    let (head, body) = chunked.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\ntransfer-encoding: chunked"), "{head}");
    assert!(head.contains("\r\ndate: "), "{head}");
    let events = unchunk(body);
    let kinds: Vec<&str> = events
        .lines()
        .filter_map(|line| line.strip_prefix("event: "))
        .collect();
    assert_eq!(kinds, ["hello", "final", "bye"]);
    assert!(events.starts_with("retry: "), "{events}");
    let (head, body) = bare.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert!(head.contains("\r\nconnection: close"), "{head}");
    // Each `bye` has another time at which to reconnect, so the streams are compared without it.
    let without_bye = |events: &str| events.split("event: bye").next().unwrap().to_owned();
    assert_eq!(without_bye(body), without_bye(&events));
    assert_eq!(stopped.join().unwrap().remaining, 0);
}

#[test]
fn earlier_requests_on_a_connection_are_answered_first() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut stream = connect(node.address);
    let http_request = "GET /v1/rooms/r HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /v1/rooms/r/events HTTP/1.1\r\nhost: x\r\n\r\n";
    stream
        .write_all(format!("{}{last}", http_request.repeat(3)).as_bytes())
        .unwrap();
    let mut text = String::new();
    while !text.contains("event: hello") {
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 4);
    assert!(text.find("text/event-stream").unwrap() > text.rfind(r#""room":"r","final""#).unwrap());
}

/// Hundreds of clients connect and disconnect. Subscribers that stay lose no final result, and no state of the other
/// clients is left behind.
#[test]
fn reconnects_do_not_affect_other_subscribers() {
    const FINALS: u64 = 40;
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut stays: Vec<Ws> = (0..4).map(|_| Ws::join(node.address, "r", "")).collect();
    for ws in &mut stays {
        assert_eq!(ws.next().kind(), "hello");
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (over, address) = (&over, node.address);
            scope.spawn(move || {
                let mut turns = 0;
                while !over.load(Ordering::Relaxed) || turns < 20 {
                    turns += 1;
                    match (turns + thread) % 3 {
                        0 => drop(Ws::join(address, "r", "")),
                        1 => assert_eq!(Sse::join(address, "r", "", "").next().kind(), "hello"),
                        // This client disconnects before the response.
                        _ => drop(ask_for_events(address, "1.1")),
                    }
                }
            });
        }
        for nth in 1..=FINALS {
            fixture.counting.live(nth, "r", &[("🔥", nth)]);
            fixture.counting.close(nth, &[("r", &[("🔥", nth)])]);
        }
        for ws in &mut stays {
            let totals = ws.finals(FINALS as usize);
            let totals: Vec<u64> = totals
                .iter()
                .map(|f| f.json["total"].as_u64().unwrap())
                .collect();
            assert_eq!(totals, (1..=FINALS).collect::<Vec<_>>());
        }
        over.store(true, Ordering::Relaxed);
    });
    drop(stays);
    until("all have gone", || {
        let left =
            |transport: &str| node.metric(&format!("subscribers{{transport=\"{transport}\"}}"));
        left("websocket") + left("sse") == 0.0
            && node.metric("write_queue_bytes") + node.metric("stalled_subscribers") == 0.0
            && get(node.address, "/v1/rooms/r").json()["subscribers"] == 0
    });
}

/// A client that reads but does not send pongs, for example since the host of a page sleeps and a proxy keeps the
/// connection open.
#[test]
fn a_client_that_does_not_answer_pings_is_disconnected() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    let mut alive = Ws::join(node.address, "r", "");
    assert_eq!(alive.next().kind(), "hello");
    let stream = ws.0.get_mut();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    alive
        .0
        .get_mut()
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let begun = Instant::now();
    let pinging = std::thread::spawn(move || {
        // The library sends pongs while it reads.
        let mut pings = 0;
        while pings < 2 {
            pings += usize::from(matches!(alive.message(), tungstenite::Message::Ping(_)));
        }
        alive
    });
    let mut all = Vec::new();
    // The result is ignored, since the connection may end with a reset.
    let _ = stream.read_to_end(&mut all);
    // Since the room is silent, the client reads only heartbeats and pings. The length field of each has one byte.
    let mut frames = &all[..];
    let mut pings = 0;
    while let [opcode, length, rest @ ..] = frames {
        let (payload, behind) = rest.split_at((*length).into());
        match opcode {
            0x89 => pings += 1,
            _ => assert!(payload.starts_with(br#"{"type":"heartbeat""#)),
        }
        frames = behind;
    }
    assert!(pings > 0, "{all:?}");
    assert!(
        begun.elapsed() >= Duration::from_secs(29),
        "{:?}",
        begun.elapsed()
    );
    drop(pinging.join().unwrap());
}
