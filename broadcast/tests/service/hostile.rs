//! Handshakes that are none, and clients that do not keep to RFC 6455.

use std::io::{Read, Write};

use tungstenite::{
    Message,
    protocol::frame::coding::{CloseCode, Control, Data, OpCode},
};

use crate::{
    clients::{Subscriber, Ws, ask, masked},
    stage::{Node, Stage},
};

const GOOD: &str = "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_handshake_is_checked() {
    let stage = Stage::new();
    let node = stage.publisher();
    let get = "GET /v1/rooms/r/ws";
    for (line, headers, status) in [
        (get, GOOD.to_owned(), 101),
        // As Firefox sends it.
        (get, GOOD.replace("Upgrade\r", "keep-alive, upgrade\r"), 101),
        (get, String::new(), 426),
        (get, GOOD.replace("websocket\r", "h2c\r"), 426),
        (get, GOOD.replace("Upgrade\r", "keep-alive\r"), 426),
        (get, GOOD.replace("13", "8"), 426),
        (get, GOOD.replace("sec-websocket-version: 13\r\n", ""), 426),
        (get, GOOD.replace("sec-websocket-key", "x"), 400),
        (get, GOOD.replace("dGhl", "dGh"), 400),
        (get, GOOD.replace("dGhl", "dG!l"), 400),
        ("POST /v1/rooms/r/ws", GOOD.to_owned(), 405),
        ("GET /v1/rooms/a%20room/ws", GOOD.to_owned(), 400),
        ("GET /v1/rooms/r/ws?since=17", GOOD.to_owned(), 400),
        (
            "GET /v1/rooms/r/ws?since=1-99999999999999999999",
            GOOD.to_owned(),
            400,
        ),
        ("GET /v1/rooms//ws", GOOD.to_owned(), 400),
    ] {
        let answer = ask(node.address, line, &headers);
        assert_eq!(answer.status, status, "{line} {headers}: {answer:?}");
        if status != 101 {
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json")
            );
        }
    }
    let answer = ask(node.address, get, GOOD);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let answer = ask(node.address, get, &GOOD.replace("13", "8"));
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
}

/// What the server closes with when it is sent these bytes; `None` when it ends without a word.
fn closes_with(node: &Node, bytes: &[u8]) -> Option<u16> {
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    ws.0.get_mut().write_all(bytes).unwrap();
    loop {
        match ws.0.read() {
            Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[test]
fn who_breaks_the_protocol_is_told_and_closed() {
    let stage = Stage::new();
    let node = stage.publisher();
    let text = OpCode::Data(Data::Text);
    let mut unmasked = masked(text, b"hi");
    unmasked[1] &= 0x7f;
    let mut reserved = masked(text, b"hi");
    reserved[0] |= 0x40;
    let mut unknown = masked(text, b"hi");
    unknown[0] = 0x83;
    let long_ping = {
        let mut ping = masked(OpCode::Data(Data::Binary), &[0; 200]);
        ping[0] = 0x89;
        ping
    };
    let mut fragmented = masked(OpCode::Control(Control::Ping), b"hi");
    fragmented[0] &= 0x7f;
    // A length of 2^62: refused by its header, before anything is kept for it.
    let huge = [&[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0][..], &[0; 4]].concat();
    for (what, bytes, code) in [
        ("unmasked", unmasked, CloseCode::Protocol),
        ("a reserved bit", reserved, CloseCode::Protocol),
        ("an unknown opcode", unknown, CloseCode::Protocol),
        ("a fragmented ping", fragmented, CloseCode::Protocol),
        ("a long ping", long_ping, CloseCode::Protocol),
        ("not UTF-8", masked(text, &[0xc3, 0x28]), CloseCode::Invalid),
        ("too long", masked(text, &vec![b'x'; 5000]), CloseCode::Size),
        ("huge", huge, CloseCode::Size),
    ] {
        assert_eq!(closes_with(&node, &bytes), Some(code.into()), "{what}");
    }
    assert_eq!(Ws::join(node.address, "r", "").next().kind(), "hello");
}

/// It is still writing when its message is refused by the length alone.
#[test]
fn who_sends_a_long_message_learns_why_it_is_refused() {
    let stage = Stage::new();
    let node = stage.publisher();
    let long = masked(OpCode::Data(Data::Text), &vec![b'x'; 3 << 20]);
    assert_eq!(closes_with(&node, &long), Some(CloseCode::Size.into()));
}

#[test]
fn what_a_client_says_is_ignored_and_a_ping_is_answered() {
    let mut stage = Stage::new();
    let node = stage.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    for message in [
        Message::text("hello?"),
        Message::binary(vec![0; 100]),
        Message::Ping("are you there".into()),
    ] {
        ws.0.send(message).unwrap();
    }
    assert_eq!(ws.message(), Message::Pong("are you there".into()));
    stage.counting.close(1, &[("r", &[("🔥", 1)])]);
    assert_eq!(ws.next().json["total"], 1);
}

#[test]
fn frames_that_come_with_the_handshake_are_read() {
    let stage = Stage::new();
    let node = stage.publisher();
    let mut stream = crate::clients::connect(node.address);
    let mut bytes = format!("GET /v1/rooms/r/ws HTTP/1.1\r\nhost: x\r\n{GOOD}\r\n").into_bytes();
    bytes.extend(masked(OpCode::Control(Control::Close), &[]));
    stream.write_all(&bytes).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let text = String::from_utf8_lossy(&all);
    assert!(text.starts_with("HTTP/1.1 101"), "{text}");
    assert!(all.ends_with(&[0x88, 0]), "{text}");
}

#[test]
fn no_bytes_end_the_publisher() {
    use proptest::prelude::*;
    let stage = Stage::new();
    let node = stage.publisher();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 64,
        ..ProptestConfig::default()
    });
    let junk = proptest::collection::vec(any::<u8>(), 0..300);
    runner
        .run(&junk, |bytes| {
            let mut ws = Ws::join(node.address, "r", "");
            ws.0.get_mut().write_all(&bytes).unwrap();
            ws.0.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
            while ws.0.read().is_ok() {}
            Ok(())
        })
        .unwrap();
    assert_eq!(Ws::join(node.address, "r", "").next().kind(), "hello");
}
