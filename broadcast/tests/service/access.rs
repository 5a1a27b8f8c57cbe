//! Authorization of subscribers at a publisher with a `--jwt-key`.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use emostream_broadcast::{Config, SubscriberConfig};
use emostream_http::{Authenticator, RequiredClaims};
use emostream_log::testing::until;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tungstenite::{Message, client::IntoClientRequest};

use crate::{
    clients::{Sse, Subscriber, Ws, ask, connect, get},
    fixture::{Fixture, Node, config, subscriber_config},
};

const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 asks for";

fn gated(fixture: &Fixture) -> Node {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{SECRET}").unwrap();
    let authenticator =
        Authenticator::from_key_file(file.path(), RequiredClaims::default()).unwrap();
    let subscribers = SubscriberConfig {
        authenticator,
        ..subscriber_config()
    };
    Node::start(
        fixture.log.clone(),
        Config {
            subscribers,
            ..config()
        },
    )
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs_f64()
}

/// Returns a token that is valid for `left` more seconds, plus the leeway. `rooms` are the rooms that it allows.
fn token(left: f64, rooms: Option<&[&str]>) -> String {
    let mut claims = json!({"sub": "u-17", "exp": now() + left});
    if let Some(rooms) = rooms {
        claims["rooms"] = json!(rooms);
    }
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

const ROOM: [&str; 4] = ["", "/history", "/events", "/ws"];

#[test]
fn no_response_has_results_without_a_valid_token() {
    let fixture = Fixture::new();
    let node = gated(&fixture);
    let good = token(600.0, None);
    let (_, rest) = good.split_once('.').unwrap();
    for (bad, error) in [
        (None, false),
        (Some("garbage".to_owned()), true),
        (Some(format!("eyJhbGciOiJub25lIn0.{rest}")), true),
        (Some(token(-60.0, None)), true),
    ] {
        let query = bad
            .as_ref()
            .map_or(String::new(), |bad| format!("?token={bad}"));
        let header = bad.as_ref().map_or(String::new(), |bad| {
            format!("authorization: Bearer {bad}\r\n")
        });
        let paths = ROOM.map(|what| format!("/v1/rooms/r{what}"));
        for path in paths.iter().map(String::as_str).chain(["/v1/rooms"]) {
            for (target, headers) in [
                (format!("{path}{query}"), String::new()),
                (path.to_owned(), header.clone()),
            ] {
                let answer = ask(
                    node.address,
                    &format!("GET {target}"),
                    &format!("{UPGRADE}{headers}"),
                );
                assert_eq!(answer.status, 401, "{target} {headers}: {answer:?}");
                let challenge = answer.header("www-authenticate").unwrap();
                assert!(challenge.starts_with("Bearer realm="), "{challenge}");
                assert_eq!(challenge.contains("invalid_token"), error, "{challenge}");
                assert_eq!(answer.json()["status"], 401);
                let bad_token = bad.as_deref().unwrap_or("nothing");
                assert!(!answer.body.contains(bad_token), "{answer:?}");
            }
        }
    }
    for path in ["/", "/emostream.js", "/style.css"] {
        assert_eq!(get(node.address, path).status, 200, "{path}");
    }
    assert_eq!(ask(node.address, "OPTIONS /v1/rooms/r", "").status, 204);
}

#[test]
fn a_token_is_accepted_in_a_header_the_query_or_a_subprotocol() {
    let fixture = Fixture::new();
    let node = gated(&fixture);
    let good = token(600.0, None);
    let header = format!("authorization: Bearer {good}\r\n");
    let query = format!("?token={good}");
    for what in ["", "/history"] {
        let path = format!("/v1/rooms/r{what}");
        assert_eq!(
            ask(node.address, &format!("GET {path}"), &header).status,
            200
        );
        assert_eq!(get(node.address, &format!("{path}{query}")).status, 200);
    }
    assert_eq!(get(node.address, &format!("/v1/rooms{query}")).status, 200);
    let mut sse = [
        Sse::join(node.address, "r", "", &header),
        Sse::join(node.address, "r", &query, ""),
    ];
    for sse in &mut sse {
        assert_eq!(sse.next().kind(), "hello");
    }
    assert_eq!(Ws::join(node.address, "r", &query).next().kind(), "hello");

    let request = |name: &'static str, value: String| {
        let url = format!("ws://{}/v1/rooms/r/ws", node.address);
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        tungstenite::client(request, connect(node.address)).unwrap()
    };
    let (socket, _) = request("authorization", format!("Bearer {good}"));
    assert_eq!(Ws(socket).next().kind(), "hello");
    let offered = format!("emostream, emostream.token.{good}");
    let (socket, response) = request("sec-websocket-protocol", offered);
    assert_eq!(response.headers()["sec-websocket-protocol"], "emostream");
    assert_eq!(Ws(socket).next().kind(), "hello");
}

#[test]
fn a_token_for_other_rooms_is_403_and_lists_only_its_own() {
    let mut fixture = Fixture::new();
    let node = gated(&fixture);
    let names = ["match-7", "match-8", "side-1"];
    let counts = [("🔥", 1)];
    fixture
        .counting
        .close(1, &names.map(|room| (room, &counts[..])));
    fixture.counting.trending(1, "*", &counts);
    let rooms = |token: &str| get(node.address, &format!("/v1/rooms?token={token}")).json();
    let listed = |token: &str| -> Vec<String> {
        let rooms = rooms(token);
        let rooms = rooms["rooms"].as_array().unwrap().iter();
        rooms
            .map(|room| room["room"].as_str().unwrap().to_owned())
            .collect()
    };
    let all = token(600.0, None);
    until("all is read", || {
        listed(&all) == names && rooms(&all)["trending"].is_object()
    });
    for (claimed, opened) in [
        (&["match-7"][..], &["match-7"][..]),
        (&["match-*"], &["match-7", "match-8"]),
        (&["other", "side-1"], &["side-1"]),
        (&[], &[]),
    ] {
        let token = token(600.0, Some(claimed));
        assert_eq!(listed(&token), opened);
        // The response has no lists of what is trending across all rooms, since they would show rooms that the token
        // does not allow.
        assert_eq!(rooms(&token)["trending"], Value::Null);
        for room in names {
            for what in ROOM {
                let line = format!("GET /v1/rooms/{room}{what}?token={token}");
                if what == "/events" && opened.contains(&room) {
                    continue;
                }
                let answer = ask(node.address, &line, UPGRADE);
                let expected = match (opened.contains(&room), what) {
                    (true, "/ws") => 101,
                    (true, _) => 200,
                    (false, _) => 403,
                };
                assert_eq!(
                    answer.status, expected,
                    "{claimed:?} {room}{what}: {answer:?}"
                );
            }
        }
    }
}

#[test]
fn a_subscriber_is_disconnected_when_its_token_expires() {
    let fixture = Fixture::new();
    let node = gated(&fixture);
    // The token has expired, but is still accepted for a second, since the leeway is 5 s.
    let short = format!("?token={}", token(-4.0, None));
    let long = format!("?token={}", token(600.0, None));
    let mut stays = Ws::join(node.address, "r", &long);
    let mut ws = Ws::join(node.address, "r", &short);
    let mut sse = Sse::join(node.address, "r", &short, "connection: close\r\n");
    assert_eq!(ws.next().kind(), "hello");
    assert_eq!(sse.next().kind(), "hello");
    let Message::Close(Some(frame)) = ws.message() else {
        panic!("a close ends it");
    };
    assert_eq!(
        u16::from(frame.code),
        3500,
        "do not come back with this one"
    );
    assert_eq!(sse.event(), None);
    let again = get(node.address, &format!("/v1/rooms/r/events{short}"));
    assert_eq!(again.status, 401);
    until("both have gone", || {
        let left =
            |transport: &str| node.metric(&format!("subscribers{{transport=\"{transport}\"}}"));
        (left("websocket"), left("sse")) == (1.0, 0.0)
    });
    assert_eq!(stays.next().kind(), "hello");
    assert_eq!(get(node.address, &format!("/v1/rooms/r{long}")).status, 200);
}
