//! Tests of malformed requests. After each of them a well-formed request is served, and at the end the log contains
//! exactly the accepted reactions.

use std::{
    io::{ErrorKind, Read, Write},
    time::Duration,
};

use emostream_ingest::Config;

use crate::fixture::TestService;

/// A valid reaction of 33 bytes.
const ONE: &str = r#"{"user_id":1,"emoji_type":"fire"}"#;

/// Timeout for receiving a body.
const BODY_TIME: Duration = Duration::from_millis(200);

/// The bytes of an attack, and the expected statuses of the responses.
struct Attack {
    name: &'static str,
    bytes: Vec<u8>,
    answers: &'static [u16],
}

fn attack(name: &'static str, bytes: impl AsRef<[u8]>, answers: &'static [u16]) -> Attack {
    let bytes = bytes.as_ref().to_vec();
    Attack {
        name,
        bytes,
        answers,
    }
}

fn head(lines: &str) -> String {
    format!("POST /v1/reactions HTTP/1.1\r\nhost: h\r\n{lines}\r\n")
}

fn post(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let lines = format!("content-length: {}\r\nconnection: close\r\n", body.len());
    [head(&lines).as_bytes(), body].concat()
}

fn chunked(lines: &str) -> String {
    let head = head(&format!("{lines}transfer-encoding: chunked\r\n"));
    format!("{head}21\r\n{ONE}\r\n0\r\n\r\n")
}

/// Requests that two HTTP parsers may understand in different ways (request smuggling).
fn smuggling() -> Vec<Attack> {
    let smuggled = "GET /openapi.json HTTP/1.1\r\nhost: h\r\n\r\n";
    let line = |line: &str| [&head(line), ONE].concat();
    vec![
        attack(
            "two lengths",
            line("content-length: 5\r\ncontent-length: 33\r\n"),
            &[400],
        ),
        attack(
            "the same length twice",
            line("content-length: 33\r\nconnection: close\r\ncontent-length: 33\r\n"),
            &[202],
        ),
        attack(
            "a list of lengths",
            line("content-length: 33, 33\r\n"),
            &[400],
        ),
        attack(
            "a length with a sign",
            line("content-length: +33\r\n"),
            &[400],
        ),
        attack(
            "a length beyond numbers",
            line("content-length: 99999999999999999999999\r\n"),
            &[400],
        ),
        // The chunks override the length, and the server closes the connection after the response. So the bytes after
        // the chunks are not parsed as a request.
        attack(
            "a length and chunks",
            chunked("content-length: 33\r\n") + smuggled,
            &[202],
        ),
        attack(
            "a short length and chunks",
            chunked("content-length: 3\r\n") + smuggled,
            &[202],
        ),
        attack(
            "chunks inside another coding",
            chunked("transfer-encoding: gzip\r\n").replace("chunked", "chunked, identity"),
            &[400],
        ),
        attack(
            "a coding like chunked",
            chunked("").replace("chunked", "xchunked"),
            &[400],
        ),
        attack(
            "a space before the colon",
            chunked("").replace("encoding:", "encoding :"),
            &[400],
        ),
        attack("a folded header", head("x: a\r\n b\r\n"), &[400]),
        attack(
            "two hosts",
            line("host: b\r\ncontent-length: 33\r\n"),
            &[400],
        ),
        attack(
            "a length too short",
            line("content-length: 5\r\n") + "\r\n\r\n",
            &[400, 400],
        ),
    ]
}

/// Requests whose head or framing of the body is too long or is not valid HTTP.
fn floods() -> Vec<Attack> {
    let long = "y".repeat(40_000);
    let endless = format!("{}1\r\n[\r\n", head("transfer-encoding: chunked\r\n"));
    let open = head("transfer-encoding: chunked\r\nconnection: close\r\n");
    vec![
        attack("many headers", head(&"x: y\r\n".repeat(200)), &[431]),
        attack("a long header", head(&format!("x: {long}\r\n")), &[431]),
        attack(
            "a long path",
            format!("GET /{long} HTTP/1.1\r\n\r\n"),
            &[431],
        ),
        attack("a header with NUL", head("x: a\0b\r\n"), &[400]),
        attack(
            "a path with NUL",
            "GET /\0 HTTP/1.1\r\nhost: h\r\n\r\n",
            &[400],
        ),
        attack(
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaa",
            &[400],
        ),
        attack(
            "garbage behind a request",
            [&post(ONE)[..], b"\xff\xfe\0\r\n\r\n"].concat(),
            &[202],
        ),
        attack(
            "garbage behind a request that keeps the connection",
            [
                head("content-length: 33\r\n").as_bytes(),
                ONE.as_bytes(),
                b"\xff\xfe\0\r\n\r\n",
            ]
            .concat(),
            &[202, 400],
        ),
        attack("chunks without end", endless, &[408]),
        attack(
            "a chunk that lies about its size",
            format!("{open}ffffffffffffffff\r\n{ONE}"),
            &[408],
        ),
        attack(
            "a chunk larger than numbers",
            format!("{open}fffffffffffffffff\r\n{ONE}"),
            &[400],
        ),
        attack(
            "a long chunk extension",
            format!("{open}21;{long}\r\n{ONE}\r\n0\r\n\r\n"),
            &[400],
        ),
        attack(
            "many trailers",
            format!("{open}21\r\n{ONE}\r\n0\r\n{}\r\n", "x: y\r\n".repeat(3000)),
            &[400],
        ),
        attack(
            "a length that is too long",
            [&head("content-length: 34\r\n"), ONE].concat(),
            &[408],
        ),
        attack(
            "a length beyond the limit",
            head("content-length: 999999999999\r\n"),
            &[413],
        ),
    ]
}

/// Requests with JSON that breaks careless parsers.
fn bodies() -> Vec<Attack> {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let with = |field: &str| post(ONE.replacen('{', &format!("{{{field},"), 1));
    let digits = "9".repeat(100_000);
    vec![
        attack("deep arrays", post(deep(100_000)), &[400]),
        attack("deep objects", post(r#"{"x":"#.repeat(40_000)), &[400]),
        attack(
            "depth in an unknown field",
            with(&format!(r#""x":{}"#, deep(100_000))),
            &[202],
        ),
        attack(
            "depth in a known field",
            post(format!(
                r#"{{"user_id":{},"emoji_type":"fire"}}"#,
                deep(100_000)
            )),
            &[400],
        ),
        attack(
            "a number of many digits",
            with(&format!(r#""room":{digits}"#)),
            &[400],
        ),
        attack(
            "an exponent out of range",
            with(r#""timestamp":1e999"#),
            &[400],
        ),
        attack(
            "a number out of range in an array",
            post(format!(r#"[{{"user_id":1e999}},{ONE}]"#)),
            &[207],
        ),
        attack(
            "a moment out of range",
            with(r#""timestamp":-1e300"#),
            &[400],
        ),
        attack("a NUL byte", post(ONE.replace("fire", "fire\0")), &[400]),
        attack("a written NUL", with(r#""x":"\u0000""#), &[202]),
        attack("half a surrogate pair", with(r#""room":"\ud800""#), &[400]),
        attack(
            "a key twice: the last counts",
            with(r#""user_id":"""#),
            &[202],
        ),
        attack(
            "a bad key at last",
            post(ONE.replace('}', r#","user_id":""}"#)),
            &[400],
        ),
        attack(
            "as many keys as fit",
            post(format!("{{{}{}", r#""x":0,"#.repeat(43_000), &ONE[1..])),
            &[202],
        ),
        attack("a byte order mark", post(format!("\u{feff}{ONE}")), &[202]),
        attack("UTF-16", post(b"\xff\xfe{\0}\0"), &[400]),
    ]
}

/// Sends an attack. Returns all bytes that the server sends until it closes or resets the connection.
fn everything(service: &TestService, attack: &Attack) -> String {
    let mut stream = service.connect();
    // The write may fail, since the server may respond early and close the connection.
    let _ = stream.write_all(&attack.bytes);
    let mut response = Vec::new();
    match stream.read_to_end(&mut response) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            panic!("{}: {error}", attack.name)
        }
        _ => String::from_utf8(response).unwrap(),
    }
}

fn statuses(response: &str) -> Vec<u16> {
    let answers = response.split("HTTP/1.1 ").skip(1);
    answers
        .map(|response| response[..3].parse().unwrap())
        .collect()
}

#[test]
fn malformed_input_is_refused_and_the_next_client_is_served() {
    let mut service = TestService::start(Config {
        flush: Duration::from_millis(20),
        body_time: BODY_TIME,
        ..Config::default()
    });
    let mut kept = 0;
    for attack in [smuggling(), floods(), bodies()].into_iter().flatten() {
        let response = everything(&service, &attack);
        assert_eq!(
            statuses(&response),
            attack.answers,
            "{}: {response}",
            attack.name
        );
        let taken = |status: &&u16| matches!(status, 202 | 207);
        kept += attack.answers.iter().filter(taken).count();
        let next = service.post("/v1/reactions", ONE);
        assert_eq!(next.status, 202, "after {}", attack.name);
        kept += 1;
    }
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), kept);
}
