//! Tests of authentication and authorization, with an ingest that has a `--jwt-key`.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use emostream_http::{Authenticator, RequiredClaims};
use emostream_ingest::Config;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::fixture::{Response, TestService};

const SECRET: &str = "a secret of at least 32 bytes, as RFC 7518 asks for";

const POST: &str = "POST /v1/reactions";

fn gated() -> Config {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{SECRET}").unwrap();
    Config {
        flush: Duration::from_millis(20),
        authenticator: Authenticator::from_key_file(file.path(), RequiredClaims::default())
            .unwrap(),
        ..Config::default()
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

fn token(claims: &Value) -> String {
    signed(claims, Algorithm::HS256, SECRET)
}

fn signed(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(algorithm), claims, &key).unwrap()
}

/// Returns a token of `u-17` for all rooms.
fn good() -> String {
    token(&json!({"sub": "u-17", "exp": now() + 600}))
}

fn ask(service: &TestService, line: &str, token: &str, body: &Value) -> Response {
    let header = format!("authorization: Bearer {token}");
    service.request(line, &[&header], body.to_string())
}

fn of(user: impl Into<Value>, room: &str) -> Value {
    json!({"user_id": user.into(), "emoji_type": "🔥", "room": room})
}

#[test]
fn without_a_valid_token_the_response_is_401_and_nothing_is_accepted() {
    let mut service = TestService::start(gated());
    let body = of("u-17", "a").to_string();
    let claims = json!({"sub": "u-17", "exp": now() + 600});
    let good = good();
    let (head, rest) = good.split_once('.').unwrap();
    let invalid = r#"Bearer realm="emostream", error="invalid_token""#;
    for (authorization, challenge, word) in [
        (
            "x: y".to_owned(),
            r#"Bearer realm="emostream""#,
            "a token is required",
        ),
        (
            "authorization: Basic dTpw".to_owned(),
            r#"Bearer realm="emostream""#,
            "a token is required",
        ),
        (
            "authorization: Bearer".to_owned(),
            r#"Bearer realm="emostream""#,
            "a token is required",
        ),
        (
            format!("authorization: Bearer {good}\r\nauthorization: Bearer {good}"),
            r#"Bearer realm="emostream""#,
            "one header",
        ),
        (
            "authorization: Bearer garbage".to_owned(),
            invalid,
            "not a JWT",
        ),
        (
            format!("authorization: Bearer {good}x"),
            invalid,
            "not a JWT",
        ),
        (
            format!("authorization: Bearer eyJhbGciOiJub25lIn0.{rest}"),
            invalid,
            "not a JWT",
        ),
        (
            format!("authorization: Bearer {head}.{head}.{head}"),
            invalid,
            "not a JWT",
        ),
        (
            format!(
                "authorization: Bearer {}",
                signed(&claims, Algorithm::HS512, SECRET)
            ),
            invalid,
            "not a JWT",
        ),
        (
            format!(
                "authorization: Bearer {}",
                signed(&claims, Algorithm::HS256, &SECRET[1..])
            ),
            invalid,
            "not a JWT",
        ),
        (
            format!("authorization: Bearer {}", token(&json!({"sub": "u-17"}))),
            invalid,
            "no exp",
        ),
        (
            format!(
                "authorization: Bearer {}",
                token(&json!({"exp": now() + 600}))
            ),
            invalid,
            "no sub",
        ),
        (
            format!(
                "authorization: Bearer {}",
                token(&json!({"sub": "u-17", "exp": now() - 60}))
            ),
            invalid,
            "has expired",
        ),
        (
            format!(
                "authorization: Bearer {}",
                token(&json!({"sub": "u-17", "exp": now() + 600, "nbf": now() + 60}))
            ),
            invalid,
            "not valid yet",
        ),
        (
            format!(
                "authorization: Bearer {}",
                token(&json!({"sub": "u-17", "exp": now() + 600, "rooms": null}))
            ),
            invalid,
            "the token's rooms is not a list of strings",
        ),
    ] {
        for path in ["/v1/reactions", "/emoji"] {
            let response = service.request(&format!("POST {path}"), &[&authorization], &body);
            assert_eq!(response.status, 401, "{authorization}: {response:?}");
            assert_eq!(response.header("www-authenticate"), Some(challenge));
            let text = response.body.to_string();
            assert!(text.contains(word), "{authorization}: {text}");
            let token = authorization.rsplit(' ').next().unwrap();
            assert!(token.len() < 7 || !text.contains(token), "{text}");
        }
    }
    // A token in the URL is refused, since URLs may be logged and clients of this service can set a header instead.
    let target = format!("POST /v1/reactions?token={good}");
    assert_eq!(service.request(&target, &[], &body).status, 401);
    assert_eq!(ask(&service, POST, &good, &of("u-17", "a")).status, 202);
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 1);
    let refused = service.metric(r#"emostream_ingest_requests_total{code="401"}"#);
    assert_eq!(refused, 31.0);
}

#[test]
fn a_refusal_comes_before_the_body_is_read() {
    let service = TestService::start(gated());
    let mut stream = service.connect();
    let head = "POST /v1/reactions HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 9999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Response::read(&mut stream).status, 401);
}

#[test]
fn another_user_or_another_room_is_403_and_nothing_is_accepted() {
    let mut service = TestService::start(gated());
    let limited = token(&json!({
        "sub": "17", "exp": now() + 600, "rooms": ["match-7", "side-*"]
    }));
    let sub = "user_id is not the token's sub";
    let closed = "the token does not give access to room \"match-8\"";
    for (token, body, status, detail) in [
        (&good(), of("u-17", "any"), 202, ""),
        (&good(), of("u-18", "any"), 403, sub),
        (&good(), of(17, "any"), 403, sub),
        // As a user id, an integer equals the text of its digits, in tokens as in bodies.
        (&limited, of(17, "match-7"), 202, ""),
        (&limited, of("17", "side-service"), 202, ""),
        (&limited, of("17", "match-8"), 403, closed),
        (&limited, of("017", "match-7"), 403, sub),
        (
            &limited,
            json!({"user_id": 17, "emoji_type": "🔥"}),
            403,
            "\"default\"",
        ),
        // An invalid body gets 400, even if the token does not allow its user or room.
        (&limited, json!({"user_id": 18}), 400, "emoji_type"),
        (
            &limited,
            json!([of(18, "match-7"), {"user_id": 17}]),
            400,
            "none of the 2",
        ),
        (
            &limited,
            json!([of(18, "match-7"), of(17, "match-8")]),
            403,
            "none of the 2",
        ),
        (&limited, json!([]), 202, ""),
    ] {
        let response = ask(&service, POST, token, &body);
        assert_eq!(response.status, status, "{body}: {response:?}");
        assert!(
            response
                .body
                .to_string()
                .replace("\\\"", "\"")
                .contains(detail),
            "{response:?}"
        );
    }
    let mixed = json!([
        of(17, "match-7"),
        of(18, "match-7"),
        of(17, "match-8"),
        of(17, "side-1")
    ]);
    let response = ask(&service, POST, &limited, &mixed);
    let expected = json!({"accepted": 2, "rejected": [
        {"index": 1, "detail": sub}, {"index": 2, "detail": closed}
    ]});
    assert_eq!((response.status, &response.body), (207, &expected));
    let flask = ask(
        &service,
        "POST /emoji",
        &limited,
        &json!({"user": 18, "emoji": "🔥"}),
    );
    assert_eq!((flask.status, &flask.body["error"]), (403, &json!(sub)));
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 3 + 2);
    let outcome = |outcome: &str| {
        service.metric(&format!(
            "emostream_ingest_reactions_total{{outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((outcome("accepted"), outcome("rejected")), (5.0, 2.0));
    assert_eq!(outcome("forbidden"), 5.0 + 1.0 + 2.0 + 2.0 + 1.0);
    assert_eq!(service.metric("emostream_ingest_rooms_in_use"), 4.0);
}

#[test]
fn the_document_preflights_and_errors_need_no_token() {
    let service = TestService::start(gated());
    assert_eq!(service.request("GET /openapi.json", &[], "").status, 200);
    let asks = [
        "origin: https://a.example",
        "access-control-request-method: POST",
    ];
    let preflight = service.request("OPTIONS /v1/reactions", &asks, "");
    assert_eq!(preflight.status, 204);
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization"));
    assert_eq!(service.request("GET /v1/reactions", &[], "").status, 405);
    assert_eq!(service.request("POST /nothing", &[], "").status, 404);
}
