//! How much users and addresses may send: an ingest with `--per-user-rate` and `--per-address-rate`.

use std::time::Duration;

use emostream_http::TrustedProxies;
use emostream_ingest::{Config, RateLimit};
use serde_json::json;

use crate::stage::{Answer, Stage, array};

const POST: &str = "POST /v1/reactions";

/// A reaction in a thousand seconds, and one at once: nothing is refilled while a test runs.
const SLOW: f64 = 0.001;

fn limited(per_user: f64, per_address: f64) -> Config {
    Config {
        flush: Duration::from_millis(20),
        per_user: RateLimit::per_second(per_user),
        per_address: RateLimit::per_second(per_address),
        trusted_proxies: "127.0.0.0/8".parse::<TrustedProxies>().unwrap(),
        ..Config::default()
    }
}

fn of(users: &[&str]) -> String {
    let one = |user| json!({"user_id": user, "emoji_type": "🔥"});
    json!(users.iter().map(one).collect::<Vec<_>>()).to_string()
}

fn from(stage: &Stage, address: &str, body: &str) -> Answer {
    let forwarded = format!("x-forwarded-for: {address}");
    stage.ask(POST, &[&forwarded], body)
}

fn outcome(stage: &Stage, outcome: &str) -> f64 {
    stage.metric(&format!(
        "emostream_ingest_reactions_total{{outcome=\"{outcome}\"}}"
    ))
}

#[test]
fn a_user_who_sends_too_fast_is_429_and_nothing_of_the_request_is_kept() {
    let mut stage = Stage::start(limited(SLOW, 0.0));
    assert_eq!(stage.post("/v1/reactions", of(&["a"])).status, 202);
    for (body, advice) in [
        (of(&["a"]), "send it again later"),
        (of(&["b", "b"]), "send fewer"),
        // Others that may send wait with the one that may not.
        (of(&["b", "a"]), "later"),
    ] {
        let said = stage.post("/v1/reactions", &body);
        assert_eq!(said.status, 429, "{body}: {said:?}");
        let detail = said.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("0.001/s") && detail.contains(advice),
            "{detail}"
        );
        let flask = stage.post("/emoji", &body);
        assert_eq!((flask.status, &flask.body["error"]), (429, &json!(detail)));
    }
    assert_eq!(stage.post("/v1/reactions", of(&["b"])).status, 202);
    assert_eq!(stage.post("/v1/reactions", array(1000)).status, 202);
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 1 + 1 + 1000);
    assert_eq!(outcome(&stage, "limited"), 2.0 * (1.0 + 2.0 + 2.0));
    assert_eq!(outcome(&stage, "rejected"), 0.0);
    assert_eq!(
        stage.metric(r#"emostream_ingest_requests_total{code="429"}"#),
        6.0
    );
}

#[test]
fn an_array_costs_its_address_as_much_as_its_reactions() {
    let stage = Stage::start(limited(0.0, SLOW));
    let here = "198.51.100.1";
    let many = from(&stage, here, &array(2));
    assert_eq!(many.status, 429);
    let detail = many.body["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("this address") && detail.ends_with("send fewer"),
        "{detail}"
    );
    // What the client claims of itself stands further left.
    let claimed = format!("203.0.113.9, {here}");
    for (address, status) in [
        (here, 202),
        (here, 429),
        (&claimed, 429),
        ("198.51.100.2", 202),
        ("2001:db8:1:2::1", 202),
        ("2001:db8:1:2::ffff", 429),
        ("2001:db8:1:3::1", 202),
    ] {
        assert_eq!(from(&stage, address, &array(1)).status, status, "{address}");
    }
    // What is refused for itself costs nothing.
    let there = "198.51.100.3";
    assert_eq!(from(&stage, there, "[7,7]").status, 400);
    assert_eq!(from(&stage, there, &array(1)).status, 202);
}

#[test]
fn who_is_refused_is_told_when_to_come_back_and_not_all_the_same() {
    let stage = Stage::start(limited(SLOW, 0.0));
    let ask = || stage.post("/v1/reactions", of(&["a"]));
    assert_eq!(ask().status, 202);
    let waits: Vec<u64> = (0..40)
        .map(|_| ask().header("retry-after").unwrap().parse().unwrap())
        .collect();
    // A thousand seconds less what has passed, and up to two more.
    assert!(
        waits.iter().all(|wait| (500..=1002).contains(wait)),
        "{waits:?}"
    );
    assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
}

#[test]
fn a_peer_that_is_no_proxy_cannot_choose_its_address() {
    let stage = Stage::start(Config {
        trusted_proxies: TrustedProxies::default(),
        ..limited(0.0, SLOW)
    });
    assert_eq!(from(&stage, "198.51.100.1", &array(1)).status, 202);
    assert_eq!(from(&stage, "198.51.100.2", &array(1)).status, 429);
}

#[test]
fn a_flood_of_invented_users_keeps_no_one_else_out() {
    let stage = Stage::start(Config {
        buffer_reactions: 1_000_000,
        ..limited(1.0, 0.0)
    });
    assert_eq!(stage.post("/v1/reactions", of(&["calm"])).status, 202);
    for flood in 0..300 {
        let one = |user| format!(r#"{{"user_id":"{flood}-{user}","emoji_type":"🔥"}}"#);
        let body = format!("[{}]", (0..1000).map(one).collect::<Vec<_>>().join(","));
        assert_eq!(stage.post("/v1/reactions", body).status, 202);
    }
    assert_eq!(stage.post("/v1/reactions", of(&["calm"])).status, 202);
}
