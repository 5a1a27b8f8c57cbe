//! Tests of the documented responses. Each row of the tables in docs/reference/http.md is checked.

use std::{
    io::{Read, Write},
    time::Duration,
};

use emostream_ingest::Config;
use serde_json::json;

use crate::{
    contract::violation,
    fixture::{Response, TestService, array},
};

const ONE: &str =
    r#"{"user_id": "u-17", "emoji_type": "🔥", "timestamp": 1764000000123, "room": "match-7"}"#;

fn quick() -> Config {
    Config {
        flush: Duration::from_millis(20),
        ..Config::default()
    }
}

#[test]
fn accepted_reactions_get_the_documented_response_and_are_in_the_log() {
    let mut service = TestService::start(quick());
    let flask = r#"{"client_id":"c","emoji":"👏"}"#;
    for (target, body, status, expected) in [
        ("/v1/reactions", ONE.to_owned(), 202, json!({"accepted": 1})),
        ("/v1/reactions", array(1000), 202, json!({"accepted": 1000})),
        (
            "/v1/reactions",
            "[]".to_owned(),
            202,
            json!({"accepted": 0}),
        ),
        (
            "/v1/reactions?wait=stored",
            array(2),
            200,
            json!({"stored": 2}),
        ),
        (
            "/v1/reactions?wait=stored",
            "[]".to_owned(),
            200,
            json!({"stored": 0}),
        ),
        (
            "/send_emoji",
            flask.to_owned(),
            200,
            json!({"status": "success", "accepted": 1}),
        ),
        (
            "/send-emoji",
            ONE.to_owned(),
            200,
            json!({"status": "success", "accepted": 1}),
        ),
        (
            "/emoji?wait=stored",
            format!(r#"[{flask},{{"user":5,"emoji":"sad"}}]"#),
            200,
            json!({"status": "success", "accepted": 2, "stored": 2}),
        ),
    ] {
        let response = service.post(target, &body);
        assert_eq!(
            (response.status, &response.body),
            (status, &expected),
            "{target} {body:.60}"
        );
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    }
    service.stop(Duration::from_secs(10)).unwrap();
    let reactions = service.reactions();
    assert_eq!(reactions.len(), 1 + 1000 + 2 + 1 + 1 + 2);
    let of = |user: &str| reactions.iter().filter(|r| r.user.as_str() == user).count();
    assert_eq!((of("u-17"), of("c"), of("5"), of("0")), (2, 2, 2, 2));
    let example = reactions
        .iter()
        .find(|r| r.user.as_str() == "u-17")
        .unwrap();
    assert_eq!(
        (example.emoji.as_str(), example.room.as_str()),
        ("🔥", "match-7")
    );
    assert!(
        example.at_ms > 1_764_000_000_123,
        "its time is the time of receipt, not the claimed one"
    );
    assert_eq!(
        service.metric(r#"emostream_ingest_reactions_total{outcome="accepted"}"#),
        1007.0
    );
    assert_eq!(
        service.metric(r#"emostream_ingest_reactions_total{outcome="stored"}"#),
        1007.0
    );
    assert_eq!(
        service.metric("emostream_ingest_claimed_skew_seconds_count"),
        2.0
    );
    assert_eq!(
        service.metric(r#"emostream_ingest_requests_total{code="202"}"#),
        3.0
    );
    assert_eq!(
        service.metric("emostream_ingest_request_seconds_count"),
        8.0
    );
    assert_eq!(service.metric("emostream_ingest_buffer_reactions"), 0.0);
}

#[test]
fn every_content_type_of_json_and_every_way_to_wait_is_accepted() {
    let service = TestService::start(quick());
    for (headers, status) in [
        (&["content-type: text/plain;charset=UTF-8"][..], 202),
        (&[], 202),
        (
            &[
                "content-type: application/json; charset=utf-8",
                "prefer: wait=5",
            ],
            200,
        ),
        (&["prefer: respond-async", "prefer: wait"], 200),
    ] {
        assert_eq!(
            service.request("POST /v1/reactions", headers, ONE).status,
            status,
            "{headers:?}"
        );
    }
}

#[test]
fn an_array_with_some_bad_entries_is_207_with_their_indexes() {
    let mut service = TestService::start(quick());
    let mixed = format!(
        r#"[{ONE},{{"user_id":1}},{ONE},7,{{"user_id":1,"emoji_type":"🔥","room":"a b"}}]"#
    );
    let places = |response: &Response| {
        let rejected = response.body["rejected"].as_array().unwrap();
        rejected
            .iter()
            .map(|bad| bad["index"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    let response = service.post("/v1/reactions", &mixed);
    assert_eq!(
        (response.status, &response.body["accepted"]),
        (207, &json!(2))
    );
    assert_eq!(places(&response), [1, 3, 4]);
    assert_eq!(
        response.body["rejected"][0]["detail"],
        "emoji_type is required"
    );
    let response = service.post("/v1/reactions?wait=stored", &mixed);
    assert_eq!(
        (response.status, &response.body["stored"]),
        (207, &json!(2))
    );
    assert!(response.body.get("accepted").is_none());
    let response = service.post("/emoji", &mixed);
    assert_eq!(
        (response.status, &response.body["status"]),
        (207, &json!("partial"))
    );
    let response = service.post("/v1/reactions", r#"[{},8]"#);
    assert_eq!(response.status, 400);
    assert_eq!(places(&response), [0, 1]);
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 6);
    assert_eq!(
        service.metric(r#"emostream_ingest_reactions_total{outcome="rejected"}"#),
        11.0
    );
}

#[test]
fn every_row_of_the_error_table_is_a_problem_and_nothing_is_accepted() {
    let mut service = TestService::start(quick());
    let json = "content-type: application/json";
    let large = format!("[{}]", " ".repeat(256 << 10));
    let too_many = array(1001);
    let post = "POST /v1/reactions";
    for (line, header, body, status, detail) in [
        (
            post,
            json,
            &b"{\"user_id\":1,}"[..],
            400,
            "not JSON: trailing comma at line 1 column 14",
        ),
        (post, json, b"", 400, "the body is empty"),
        (
            post,
            json,
            b"{\"user_id\":1,\"emoji_type\":\"\xff\"}",
            400,
            "not UTF-8 at byte 27",
        ),
        (
            post,
            json,
            b"{\"emoji_type\":\"fire\"}",
            400,
            "user_id is required",
        ),
        (
            post,
            json,
            b"{\"user_id\":1,\"emoji_type\":\"nope\"}",
            400,
            "emoji_type \"nope\" is not",
        ),
        (post, json, b"\"fire\"", 400, "a reaction is a JSON object"),
        (
            post,
            json,
            too_many.as_bytes(),
            400,
            "more than 1000 reactions",
        ),
        (
            "POST /v1/reactions?wait=soon",
            json,
            ONE.as_bytes(),
            400,
            "?wait=stored",
        ),
        (
            "POST /v1/reaction",
            json,
            ONE.as_bytes(),
            404,
            "nothing at this path",
        ),
        ("GET /v1/reactions", json, b"", 405, "POST"),
        ("PUT /emoji", json, ONE.as_bytes(), 405, "POST"),
        (post, json, large.as_bytes(), 413, "more than 262144 bytes"),
        (
            post,
            "content-type: application/x-www-form-urlencoded",
            ONE.as_bytes(),
            415,
            "-H 'content-type: application/json'",
        ),
        (
            post,
            "content-encoding: gzip",
            b"\x1f\x8b",
            415,
            "compressed",
        ),
    ] {
        let response = service.request(line, &[header], body);
        assert_eq!(response.status, status, "{line} {response:?}");
        assert_eq!(
            response.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(response.body["status"], status);
        let actual_detail = response.body["detail"].as_str().unwrap();
        assert!(actual_detail.contains(detail), "{line}: {actual_detail}");
        let is_flask = line.ends_with("/emoji");
        assert_eq!(response.body.get("error").is_some(), is_flask);
    }
    let allowed = service.request("GET /v1/reactions", &[], "");
    assert_eq!(allowed.header("allow"), Some("POST, OPTIONS"));
    let head = service.request("HEAD /v1/reactions", &[], "");
    assert_eq!((head.status, head.body), (405, serde_json::Value::Null));
    assert_eq!(service.request("OPTIONS /emoji", &[], "").status, 204);
    let flask = service.post("/send_emoji", "{}");
    assert_eq!(
        (flask.status, &flask.body["error"]),
        (400, &flask.body["detail"])
    );
    service.stop(Duration::from_secs(10)).unwrap();
    assert!(service.reactions().is_empty());
}

#[test]
fn a_slow_body_is_408_and_releases_its_permits() {
    let config = Config {
        body_time: Duration::from_millis(50),
        buffer_reactions: 2,
        ..quick()
    };
    let service = TestService::start(config);
    let mut stream = service.connect();
    stream
        .write_all(b"POST /v1/reactions HTTP/1.1\r\nhost: h\r\ncontent-length: 40\r\n\r\n{")
        .unwrap();
    let response = Response::read(&mut stream);
    assert_eq!(response.status, 408);
    assert_eq!(violation("POST /v1/reactions", &response), Ok(()));
    assert_eq!(service.post("/v1/reactions", "[]").status, 202);
}

#[test]
fn pages_of_other_origins_send_preflights_and_are_restricted() {
    let service = TestService::start(Config {
        allow_origin: "https://a.example".parse().unwrap(),
        ..quick()
    });
    let preflight = service.request(
        "OPTIONS /v1/reactions",
        &[
            "origin: https://a.example",
            "access-control-request-method: POST",
        ],
        "",
    );
    assert_eq!(preflight.status, 204);
    assert_eq!(
        preflight.header("access-control-allow-origin"),
        Some("https://a.example")
    );
    assert_eq!(
        preflight.header("access-control-allow-methods"),
        Some("POST, OPTIONS")
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .unwrap()
            .contains("content-type")
    );
    let post = |origin: &str| service.request("POST /v1/reactions", &[origin], ONE);
    assert_eq!(post("origin: https://a.example").status, 202);
    let refused = post("origin: https://b.example");
    assert_eq!(
        (
            refused.status,
            refused.header("access-control-allow-origin")
        ),
        (403, None)
    );
    assert_eq!(refused.header("vary"), Some("origin"));
}

#[test]
fn rooms_beyond_the_pattern_or_the_limit_are_rejected_and_rooms_in_use_stay() {
    let service = TestService::start(Config {
        rooms: Some("match-[0-9]+".parse().unwrap()),
        max_rooms: 2,
        ..quick()
    });
    let to = |room: &str| {
        let body = format!(r#"{{"user_id":1,"emoji_type":"🔥","room":"{room}"}}"#);
        service.post("/v1/reactions", body)
    };
    assert_eq!(to("match-1").status, 202);
    assert_eq!(to("match-2").status, 202);
    let unmatched = to("lobby");
    assert_eq!(unmatched.status, 400);
    assert_eq!(
        unmatched.body["detail"],
        "room \"lobby\" does not match match-[0-9]+"
    );
    let many = to("match-3");
    assert_eq!(many.status, 503, "another may be forgotten");
    assert!(
        many.body["detail"]
            .as_str()
            .unwrap()
            .contains("one more than the 2"),
        "{many:?}"
    );
    assert_eq!(to("match-1").status, 202);
    assert_eq!(service.metric("emostream_ingest_rooms_in_use"), 2.0);
}

#[test]
fn a_page_of_an_allowed_origin_reads_every_error_also_of_an_unknown_path() {
    let service = TestService::start(Config {
        allow_origin: "https://a.example".parse().unwrap(),
        buffer_reactions: 1,
        ..quick()
    });
    let large = format!("[{}]", " ".repeat(256 << 10));
    let (json, form) = ("x: y", "content-type: text/html");
    for (line, header, body, status) in [
        ("POST /v1/reactions", json, "{", 400),
        ("POST /v1/nothing", json, ONE, 404),
        ("OPTIONS /v1/nothing", json, "", 404),
        ("GET /emoji", json, "", 405),
        ("POST /v1/reactions", json, large.as_str(), 413),
        ("POST /v1/reactions", form, ONE, 415),
        ("POST /v1/reactions", json, &array(2), 503),
    ] {
        let from = |origin| service.request(line, &[header, origin], body);
        let response = from("origin: https://a.example");
        let readable = response.header("access-control-allow-origin");
        assert_eq!(
            (response.status, readable),
            (status, Some("https://a.example"))
        );
        let exposed = response.header("access-control-expose-headers");
        assert_eq!(exposed, Some("retry-after, x-request-id"), "{line}");
        assert_eq!(response.header("retry-after").is_some(), status == 503);
        let other = from("origin: https://b.example");
        assert_eq!(other.header("access-control-allow-origin"), None, "{line}");
        assert_eq!(other.header("vary"), Some("origin"));
    }
    let asks = [
        "origin: https://a.example",
        "access-control-request-method: POST",
    ];
    let preflight = service.request("OPTIONS /v1/nothing", &asks, "");
    assert_eq!(preflight.status, 204);
    let methods = preflight.header("access-control-allow-methods");
    assert!(methods.unwrap().contains("POST"));
}

#[test]
fn a_connection_serves_many_requests_pipelined_or_not() {
    let mut service = TestService::start(quick());
    let request = |head: &str, body: &str| {
        let length = body.len();
        format!("{head} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let chunked = "POST /emoji HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let pipeline = [
        request("POST /v1/reactions", ONE),
        request("POST /v1/reactions?wait=stored", &array(3)),
        request("POST /v1/reactions", "{}"),
        request("HEAD /v1/reactions", ""),
        format!("{chunked}{:x}\r\n{ONE}\r\n0\r\n\r\n", ONE.len()),
        request("POST /nothing", ONE),
    ]
    .concat();
    let last = "POST /v1/reactions HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 2\r\n\r\n[]";
    let mut stream = service.connect();
    stream.write_all(pipeline.repeat(50).as_bytes()).unwrap();
    stream.write_all(last.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let statuses: Vec<&str> = response
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|response| &response[..3])
        .collect();
    let mut expected = ["202", "200", "400", "405", "200", "404"].repeat(50);
    expected.push("202");
    assert_eq!(statuses, expected);
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 50 * (1 + 3 + 1));
}
