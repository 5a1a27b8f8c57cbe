//! Invalid handshakes, and clients that violate RFC 6455.

use std::io::{Read, Write};

use tungstenite::{
    Message,
    protocol::frame::coding::{CloseCode, Control, Data, OpCode},
};

use crate::{
    clients::{Subscriber, Ws, ask, masked},
    fixture::{Fixture, Node},
};

const GOOD: &str = "upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-version: 13\r\n\
                    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn a_handshake_is_checked() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let get = "GET /v1/rooms/r/ws";
    for (line, headers, status) in [
        (get, GOOD.to_owned(), 101),
        // Firefox sends this form of the header.
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

/// Encodes a frame of a client. `first` is the first byte: the FIN bit, the reserved bits and the opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    let masked = payload.iter().zip(MASK.iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
/// The first byte of each fragment of a text message: of the first fragment, of one in the middle, and of the last one.
const BEGINS: u8 = 0x01;
const GOES_ON: u8 = 0x00;
const ENDS: u8 = 0x80;

const STILL_THERE: &[u8] = b"still there?";

/// The received pongs, and the code of the server's close. `None`: the connection is open. `Some(0)`: the close has no
/// code.
#[derive(Debug, PartialEq)]
struct Answer(Vec<Vec<u8>>, Option<u16>);

/// Sends these bytes, in one piece or one by one, and then a ping. If the pong arrives, the connection is still open.
fn answer(node: &Node, bytes: &[u8], by_octets: bool) -> Answer {
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    let all = [bytes, &frame(PING, STILL_THERE)].concat();
    let stream = ws.0.get_mut();
    stream.set_nodelay(true).unwrap();
    for piece in all.chunks(if by_octets { 1 } else { all.len() }) {
        // If the write fails, the server has closed the connection, and its close is read below.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut pongs = Vec::new();
    loop {
        match ws.0.read() {
            Ok(Message::Pong(payload)) if *payload == *STILL_THERE => return Answer(pongs, None),
            Ok(Message::Pong(payload)) => pongs.push(payload.to_vec()),
            Ok(Message::Close(close)) => {
                return Answer(pongs, Some(close.map_or(0, |close| close.code.into())));
            }
            Ok(_) => {}
            Err(error) => panic!("neither went on nor closed: {error}"),
        }
    }
}

fn closes_with(node: &Node, bytes: &[u8]) -> Option<u16> {
    answer(node, bytes, false).1
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// Returns the expected outcome if the connection stays open: these pongs, and no close.
fn stays_open(pongs: &[&[u8]]) -> Answer {
    Answer(pongs.iter().map(|pong| pong.to_vec()).collect(), None)
}

fn closes(pongs: &[&[u8]], code: CloseCode) -> Answer {
    Answer(stays_open(pongs).0, Some(code.into()))
}

/// The cases of the Autobahn test suite (with the numbers that they have there) that apply to a server that does not
/// echo messages. Such a server does not react to a valid message, so a ping after it shows that the connection is
/// open.
#[test]
fn the_cases_of_autobahn_are_answered_as_the_rfc_requires() {
    use CloseCode::{Invalid, Protocol};
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let (most, over) = ([0xfe; 125], [0xfe; 126]);
    let hello = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    let many: Vec<Vec<u8>> = (0..10)
        .map(|n| format!("payload-{n}").into_bytes())
        .collect();
    let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    let pings = many
        .iter()
        .map(|payload| frame(PING, payload))
        .collect::<Vec<_>>()
        .concat();
    let of = |frames: &[(u8, &[u8])]| -> Vec<u8> {
        frames
            .iter()
            .flat_map(|(first, payload)| frame(*first, payload))
            .collect()
    };
    let mut cases: Vec<(String, Vec<u8>, Answer)> = Vec::new();
    let mut case =
        |name: &str, bytes: Vec<u8>, expected| cases.push((name.to_owned(), bytes, expected));

    for bytes in [0, 125, 126, 127, 128, 4096] {
        case("1.1", frame(TEXT, &vec![b'*'; bytes]), stays_open(&[]));
        case("1.2", frame(BINARY, &vec![0xfe; bytes]), stays_open(&[]));
    }
    case("2.1", frame(PING, b""), stays_open(&[b""]));
    case(
        "2.2",
        frame(PING, b"Hello, world!"),
        stays_open(&[b"Hello, world!"]),
    );
    case(
        "2.3",
        frame(PING, &[0, 0xff, 0xfe]),
        stays_open(&[&[0, 0xff, 0xfe]]),
    );
    case("2.4", frame(PING, &most), stays_open(&[&most]));
    case("2.5", frame(PING, &over), closes(&[], Protocol));
    case("2.7", frame(PONG, b""), stays_open(&[]));
    case("2.8", frame(PONG, b"unsolicited"), stays_open(&[]));
    case(
        "2.9",
        of(&[(PONG, b"unsolicited"), (PING, b"ping")]),
        stays_open(&[b"ping"]),
    );
    case("2.10", pings, stays_open(&many));
    for reserved in 1..8 {
        let bits = reserved << 4;
        for (name, first) in [("text", TEXT), ("ping", PING), ("close", CLOSE)] {
            let bytes = of(&[(PING, b"before"), (first | bits, b"")]);
            case(
                &format!("3.{reserved} {name}"),
                bytes,
                closes(&[b"before"], Protocol),
            );
        }
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let bytes = of(&[(PING, b"before"), (0x80 | opcode, b"x")]);
        case(
            &format!("4 {opcode}"),
            bytes,
            closes(&[b"before"], Protocol),
        );
    }
    case(
        "5.1",
        of(&[(PING & 0x7f, b"frag"), (ENDS, b"ment")]),
        closes(&[], Protocol),
    );
    case(
        "5.2",
        of(&[(PONG & 0x7f, b"frag"), (ENDS, b"ment")]),
        closes(&[], Protocol),
    );
    case(
        "5.3",
        of(&[(BEGINS, b"frag"), (ENDS, b"ment")]),
        stays_open(&[]),
    );
    case(
        "5.6",
        of(&[(BEGINS, b"frag"), (PING, b"ping"), (ENDS, b"ment")]),
        stays_open(&[b"ping"]),
    );
    case(
        "5.9",
        of(&[(ENDS, b"nothing began"), (TEXT, b"x")]),
        closes(&[], Protocol),
    );
    case(
        "5.12",
        of(&[(GOES_ON, b"nothing began"), (TEXT, b"x")]),
        closes(&[], Protocol),
    );
    case(
        "5.15",
        of(&[(BEGINS, b"a"), (ENDS, b"b"), (GOES_ON, b"c"), (TEXT, b"d")]),
        closes(&[], Protocol),
    );
    case(
        "5.16",
        of(&[(GOES_ON, b"a"), (BEGINS, b"b"), (ENDS, b"c")]),
        closes(&[], Protocol),
    );
    case(
        "5.18",
        of(&[(BEGINS, b"a"), (TEXT, b"b")]),
        closes(&[], Protocol),
    );
    case(
        "5.19",
        of(&[
            (BEGINS, b"1"),
            (GOES_ON, b"2"),
            (PING, b"p"),
            (GOES_ON, b"3"),
            (PING, b"q"),
            (ENDS, b"4"),
        ]),
        stays_open(&[b"p", b"q"]),
    );
    case(
        "6.1",
        of(&[(BEGINS, b""), (GOES_ON, b""), (ENDS, b"")]),
        stays_open(&[]),
    );
    case("6.2.1", frame(TEXT, hello), stays_open(&[]));
    for at in 0..hello.len() {
        let (begin, end) = hello.split_at(at);
        case(
            "6.2.3",
            of(&[(BEGINS, begin), (ENDS, end)]),
            stays_open(&[]),
        );
    }
    let greek = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
    let surrogate = [&greek[..], b"\xed\xa0\x80edited"].concat();
    case("6.3.1", frame(TEXT, &surrogate), closes(&[], Invalid));
    for at in 0..surrogate.len() {
        let (begin, end) = surrogate.split_at(at);
        case(
            "6.3.2",
            of(&[(BEGINS, begin), (ENDS, end)]),
            closes(&[], Invalid),
        );
    }
    // The server may reject an invalid message before the message is complete (case 6.4).
    case(
        "6.4",
        of(&[(BEGINS, greek), (GOES_ON, b"\xf4\x90\x80\x80")]),
        closes(&[], Invalid),
    );
    for good in [
        "κόσμε",
        "\u{0}",
        "\u{80}",
        "\u{800}",
        "\u{10000}",
        "\u{7f}",
        "\u{7ff}",
        "\u{ffff}",
        "\u{d7ff}",
        "\u{e000}",
        "\u{fffd}",
        "\u{10ffff}",
        "\u{fffe}",
        "\u{1fffe}",
    ] {
        case(
            "6.5 and later, good",
            frame(TEXT, good.as_bytes()),
            stays_open(&[]),
        );
    }
    let bad: [&[u8]; 22] = [
        b"\xce",
        b"\xf8\x88\x80\x80\x80",
        b"\xfc\x84\x80\x80\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\x80",
        b"\xbf",
        b"\x80\xbf",
        b"\xc0 \xc1 ",
        b"\xe0 \xe1 ",
        b"\xf0 \xf1 ",
        b"\xfe",
        b"\xff",
        b"\xc0",
        b"\xe0\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xed\xaf\xbf\xed\xb0\x80",
    ];
    for bad in bad {
        case(
            &format!("6.6 and later, {bad:x?}"),
            frame(TEXT, bad),
            closes(&[], Invalid),
        );
    }
    case(
        "7.1.2",
        of(&[(CLOSE, b""), (CLOSE, b"")]),
        Answer(vec![], Some(0)),
    );
    case(
        "7.1.3",
        of(&[(CLOSE, b""), (PING, b"late")]),
        Answer(vec![], Some(0)),
    );
    case(
        "7.1.5",
        of(&[(BEGINS, b"a"), (CLOSE, b""), (ENDS, b"b")]),
        Answer(vec![], Some(0)),
    );
    case("7.3.1", frame(CLOSE, b""), Answer(vec![], Some(0)));
    case("7.3.2", frame(CLOSE, b"a"), closes(&[], Protocol));
    case(
        "7.3.4",
        close(1000, b"Hello, world!"),
        closes(&[], CloseCode::Normal),
    );
    case(
        "7.3.5",
        close(1000, &[b'*'; 123]),
        closes(&[], CloseCode::Normal),
    );
    case("7.3.6", close(1000, &[b'*'; 124]), closes(&[], Protocol));
    case("7.5.1", close(1000, &surrogate), closes(&[], Invalid));
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ] {
        case("7.7", close(code, b""), Answer(vec![], Some(code)));
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535,
    ] {
        case(
            &format!("7.9 {code}"),
            close(code, b""),
            closes(&[], Protocol),
        );
    }
    case(
        "9.1",
        frame(TEXT, &vec![b'*'; 4097]),
        closes(&[], CloseCode::Size),
    );
    case(
        "9.3",
        [frame(BEGINS, &vec![b'*'; 4000]), frame(ENDS, &[b'*'; 97])].concat(),
        closes(&[], CloseCode::Size),
    );
    case(
        "9.5",
        [frame(BEGINS, &vec![b'*'; 4000]), frame(ENDS, &[b'*'; 96])].concat(),
        stays_open(&[]),
    );

    for (name, bytes, expected) in &cases {
        assert_eq!(answer(&node, bytes, false), *expected, "{name}");
        if bytes.len() < 200 {
            assert_eq!(answer(&node, bytes, true), *expected, "{name}, by octets");
        }
    }
    assert!(cases.len() > 150, "{}", cases.len());
}

#[test]
fn a_violation_is_answered_by_a_close() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let text = OpCode::Data(Data::Text);
    let mut unmasked = masked(text, b"hi");
    unmasked[1] &= 0x7f;
    // The header announces a length of 2^62 bytes. The server rejects it before it allocates memory for the payload.
    let huge = [&[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0][..], &[0; 4]].concat();
    for (what, bytes, code) in [
        ("unmasked", unmasked, CloseCode::Protocol),
        ("huge", huge, CloseCode::Size),
    ] {
        assert_eq!(closes_with(&node, &bytes), Some(code.into()), "{what}");
    }
    assert_eq!(Ws::join(node.address, "r", "").next().kind(), "hello");
}

#[test]
fn a_handshake_of_http_1_0_is_rejected() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut stream = crate::clients::connect(node.address);
    let head = format!("GET /v1/rooms/r/ws HTTP/1.0\r\nhost: x\r\n{GOOD}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 426 "), "{answer}");
}

#[test]
fn a_handshake_with_a_body_is_rejected() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let with_body = format!("{GOOD}content-length: 2\r\n");
    assert_eq!(
        ask(node.address, "GET /v1/rooms/r/ws", &with_body).status,
        400
    );
}

/// The message is so long that the server rejects it while the client is still writing.
#[test]
fn a_message_that_is_too_long_is_answered_by_a_close() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let long = masked(OpCode::Data(Data::Text), &vec![b'x'; 3 << 20]);
    assert_eq!(closes_with(&node, &long), Some(CloseCode::Size.into()));
}

#[test]
fn a_client_that_sends_too_much_is_disconnected() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let pings = masked(OpCode::Control(Control::Ping), &[0; 100]).repeat(10_000);
    assert_eq!(closes_with(&node, &pings), Some(CloseCode::Policy.into()));
    let mut events = crate::clients::connect(node.address);
    let http_request = "GET /v1/rooms/r/events HTTP/1.1\r\nhost: x\r\n\r\n";
    // The server answers the first request, and does not parse the bytes after it as requests. The result of the write
    // is ignored, since the server may close the connection while the client still writes.
    let _ = events.write_all(http_request.repeat(20_000).as_bytes());
    let mut answer = Vec::new();
    // The result is ignored: the connection is closed, or reset because of unread bytes.
    let _ = events.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[test]
fn messages_of_a_client_are_ignored_and_pings_answered() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
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
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    assert_eq!(ws.next().json["total"], 1);
}

#[test]
fn frames_that_come_with_the_handshake_are_read() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
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
fn any_bytes_leave_the_publisher_running() {
    use proptest::prelude::*;
    let fixture = Fixture::new();
    let node = fixture.publisher();
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
