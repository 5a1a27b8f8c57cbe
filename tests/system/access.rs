//! Tests of a server that requires tokens: neither its responses nor its log contain a token or the secret.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::harness::{DEADLINE, node::Node};

const SECRET: &str = "a secret that no line of a log may ever repeat";

fn token(left: i64, user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let exp = now.unwrap().as_secs() as i64 + left;
    let claims = json!({"sub": user, "exp": exp, "rooms": ["match-*"]});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

/// Sends a request and returns the first part of the response. The rest is not read, since a stream has no end.
fn ask(address: &str, line: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    let head =
        format!("{line} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n{headers}\r\n");
    stream
        .write_all(format!("{head}{body}").as_bytes())
        .unwrap();
    let mut response = Vec::new();
    while !response.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "{line}");
        response.extend(&piece[..count]);
    }
    String::from_utf8_lossy(&response).into_owned()
}

#[test]
fn no_output_contains_a_token_or_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let node = Node::up(dir.path(), &["--jwt-key", key.to_str().unwrap(), "-vv"]);
    let tokens = [
        token(600, "u-17"),
        token(-600, "u-17"),
        format!("{}x", token(600, "u-18")),
    ];
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut answers = String::new();
    for (token, good) in tokens.iter().zip([true, false, false]) {
        let header = format!("authorization: Bearer {token}\r\n");
        let offer =
            format!("{upgrade}sec-websocket-protocol: emostream, emostream.token.{token}\r\n");
        let body = r#"{"user_id":"u-17","emoji_type":"🔥","room":"match-7"}"#;
        let other = body.replace("match-7", "lobby");
        let query = format!("?token={token}");
        for (line, headers, body, status) in [
            (
                "POST /v1/reactions?wait=stored",
                header.as_str(),
                body,
                "200",
            ),
            ("POST /v1/reactions", &header, &other, "403"),
            ("GET /v1/rooms/match-7", &header, "", "200"),
            (&format!("GET /v1/rooms/match-7{query}"), "", "", "200"),
            (&format!("GET /v1/rooms/lobby{query}"), "", "", "403"),
            (&format!("GET /v1/rooms{query}"), "", "", "200"),
            (
                &format!("GET /v1/rooms/match-7/events{query}"),
                "",
                "",
                "200",
            ),
            (
                &format!("GET /v1/rooms/match-7/ws{query}"),
                upgrade,
                "",
                "101",
            ),
            ("GET /v1/rooms/match-7/ws", &offer, "", "101"),
        ] {
            let response = ask(&node.address, line, headers, body);
            let status = if good { status } else { "401" };
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status}")),
                "{line}: {response}"
            );
            answers += &response;
        }
        // The requests are invalid, so the server may log parts of them.
        answers += &ask(&node.address, &format!("GET /nothing{query}"), &header, "");
        answers += &ask(
            &node.address,
            "POST /v1/reactions",
            &format!("{header}x y\r\n"),
            "",
        );
    }
    let log = dir.path().join("stderr");
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    let logged = std::fs::read_to_string(log).unwrap();
    assert!(
        logged.contains("DEBUG") || logged.contains("TRACE"),
        "{logged}"
    );
    let signatures = tokens.iter().map(|token| token.rsplit('.').next().unwrap());
    for secret in signatures.chain([SECRET]) {
        assert!(!logged.contains(secret), "{secret} is in the log: {logged}");
        assert!(
            !answers.contains(secret),
            "{secret} is in an answer: {answers}"
        );
    }
}
