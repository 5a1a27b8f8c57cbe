//! Who may send, and as whom: an ingest with a `--jwt-key`.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use emostream_http::{Authenticator, RequiredClaims};
use emostream_ingest::Config;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::stage::{Answer, Stage};

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

/// Everything open to `u-17`.
fn good() -> String {
    token(&json!({"sub": "u-17", "exp": now() + 600}))
}

fn ask(stage: &Stage, line: &str, token: &str, body: &Value) -> Answer {
    let header = format!("authorization: Bearer {token}");
    stage.ask(line, &[&header], body.to_string())
}

fn of(user: impl Into<Value>, room: &str) -> Value {
    json!({"user_id": user.into(), "emoji_type": "🔥", "room": room})
}

#[test]
fn without_a_good_token_the_answer_is_401_and_nothing_is_kept() {
    let mut stage = Stage::start(gated());
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
            "the token's rooms is not a list of text",
        ),
    ] {
        for path in ["/v1/reactions", "/emoji"] {
            let said = stage.ask(&format!("POST {path}"), &[&authorization], &body);
            assert_eq!(said.status, 401, "{authorization}: {said:?}");
            assert_eq!(said.header("www-authenticate"), Some(challenge));
            let text = said.body.to_string();
            assert!(text.contains(word), "{authorization}: {text}");
            let token = authorization.rsplit(' ').next().unwrap();
            assert!(token.len() < 7 || !text.contains(token), "{text}");
        }
    }
    // An address may end up in a log: where a header can be set, a token does not belong there.
    let target = format!("POST /v1/reactions?token={good}");
    assert_eq!(stage.ask(&target, &[], &body).status, 401);
    assert_eq!(ask(&stage, POST, &good, &of("u-17", "a")).status, 202);
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 1);
    let refused = stage.metric(r#"emostream_ingest_requests_total{code="401"}"#);
    assert_eq!(refused, 31.0);
}

#[test]
fn a_refusal_comes_before_the_body_is_read() {
    let stage = Stage::start(gated());
    let mut stream = stage.connect();
    let head = "POST /v1/reactions HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 9999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(Answer::read(&mut stream).status, 401);
}

#[test]
fn who_sends_as_another_or_to_other_rooms_is_403_and_nothing_is_kept() {
    let mut stage = Stage::start(gated());
    let limited = token(&json!({
        "sub": "17", "exp": now() + 600, "rooms": ["match-7", "side-*"]
    }));
    let sub = "user_id is not the token's sub";
    let closed = "the token does not open room \"match-8\"";
    for (token, body, status, detail) in [
        (&good(), of("u-17", "any"), 202, ""),
        (&good(), of("u-18", "any"), 403, sub),
        (&good(), of(17, "any"), 403, sub),
        // An integer counts as its digits, in a token as everywhere.
        (&limited, of(17, "match-7"), 202, ""),
        (&limited, of("17", "side-stage"), 202, ""),
        (&limited, of("17", "match-8"), 403, closed),
        (&limited, of("017", "match-7"), 403, sub),
        (
            &limited,
            json!({"user_id": 17, "emoji_type": "🔥"}),
            403,
            "\"default\"",
        ),
        // What is wrong is wrong, whoever sends it.
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
        let said = ask(&stage, POST, token, &body);
        assert_eq!(said.status, status, "{body}: {said:?}");
        assert!(
            said.body.to_string().replace("\\\"", "\"").contains(detail),
            "{said:?}"
        );
    }
    let mixed = json!([
        of(17, "match-7"),
        of(18, "match-7"),
        of(17, "match-8"),
        of(17, "side-1")
    ]);
    let said = ask(&stage, POST, &limited, &mixed);
    let expected = json!({"accepted": 2, "rejected": [
        {"index": 1, "detail": sub}, {"index": 2, "detail": closed}
    ]});
    assert_eq!((said.status, &said.body), (207, &expected));
    let flask = ask(
        &stage,
        "POST /emoji",
        &limited,
        &json!({"user": 18, "emoji": "🔥"}),
    );
    assert_eq!((flask.status, &flask.body["error"]), (403, &json!(sub)));
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 3 + 2);
    let outcome = |outcome: &str| {
        stage.metric(&format!(
            "emostream_ingest_reactions_total{{outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!((outcome("accepted"), outcome("rejected")), (5.0, 2.0));
    assert_eq!(outcome("forbidden"), 5.0 + 1.0 + 2.0 + 2.0 + 1.0);
    assert_eq!(stage.metric("emostream_ingest_rooms_in_use"), 4.0);
}

#[test]
fn what_tells_how_to_send_is_everybody_s() {
    let stage = Stage::start(gated());
    assert_eq!(stage.ask("GET /openapi.json", &[], "").status, 200);
    let asks = [
        "origin: https://a.example",
        "access-control-request-method: POST",
    ];
    let preflight = stage.ask("OPTIONS /v1/reactions", &asks, "");
    assert_eq!(preflight.status, 204);
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("authorization"));
    assert_eq!(stage.ask("GET /v1/reactions", &[], "").status, 405);
    assert_eq!(stage.ask("POST /nothing", &[], "").status, 404);
}
