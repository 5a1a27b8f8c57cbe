//! Tests of rate limits for users and addresses, with an ingest that has `--per-user-rate` and `--per-address-rate`.

use std::time::Duration;

use emostream_http::TrustedProxies;
use emostream_ingest::{Config, RateLimit};
use serde_json::json;

use crate::fixture::{Response, TestService, array};

const POST: &str = "POST /v1/reactions";

/// One reaction in 1000 s, with a burst of one: no token is refilled while a test runs.
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

fn from(service: &TestService, address: &str, body: &str) -> Response {
    let forwarded = format!("x-forwarded-for: {address}");
    service.request(POST, &[&forwarded], body)
}

fn outcome(service: &TestService, outcome: &str) -> f64 {
    service.metric(&format!(
        "emostream_ingest_reactions_total{{outcome=\"{outcome}\"}}"
    ))
}

#[test]
fn a_user_above_the_rate_is_429_and_nothing_of_the_request_is_accepted() {
    let mut service = TestService::start(limited(SLOW, 0.0));
    assert_eq!(service.post("/v1/reactions", of(&["a"])).status, 202);
    for (body, advice) in [
        (of(&["a"]), "retry later"),
        (of(&["b", "b"]), "send fewer"),
        // The whole request is refused, including the reaction of `b`, who is below the rate.
        (of(&["b", "a"]), "later"),
    ] {
        let response = service.post("/v1/reactions", &body);
        assert_eq!(response.status, 429, "{body}: {response:?}");
        let detail = response.body["detail"].as_str().unwrap();
        assert!(
            detail.contains("0.001/s") && detail.contains(advice),
            "{detail}"
        );
        let flask = service.post("/emoji", &body);
        assert_eq!((flask.status, &flask.body["error"]), (429, &json!(detail)));
    }
    assert_eq!(service.post("/v1/reactions", of(&["b"])).status, 202);
    assert_eq!(service.post("/v1/reactions", array(1000)).status, 202);
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 1 + 1 + 1000);
    assert_eq!(outcome(&service, "limited"), 2.0 * (1.0 + 2.0 + 2.0));
    assert_eq!(outcome(&service, "rejected"), 0.0);
    assert_eq!(
        service.metric(r#"emostream_ingest_requests_total{code="429"}"#),
        6.0
    );
}

#[test]
fn an_array_costs_its_address_as_much_as_its_reactions() {
    let service = TestService::start(limited(0.0, SLOW));
    let here = "198.51.100.1";
    let many = from(&service, here, &array(2));
    assert_eq!(many.status, 429);
    let detail = many.body["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("this address") && detail.ends_with("send fewer"),
        "{detail}"
    );
    // The proxy appends the client's address to the header, so a client can only add other addresses before its own.
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
        assert_eq!(
            from(&service, address, &array(1)).status,
            status,
            "{address}"
        );
    }
    // Invalid entries consume no tokens.
    let there = "198.51.100.3";
    assert_eq!(from(&service, there, "[7,7]").status, 400);
    assert_eq!(from(&service, there, &array(1)).status, 202);
}

#[test]
fn a_429_has_a_jittered_retry_after() {
    let service = TestService::start(limited(SLOW, 0.0));
    let ask = || service.post("/v1/reactions", of(&["a"]));
    assert_eq!(ask().status, 202);
    let waits: Vec<u64> = (0..40)
        .map(|_| ask().header("retry-after").unwrap().parse().unwrap())
        .collect();
    // The wait is 1000 s, less the time since the first request, plus up to 2 s of jitter.
    assert!(
        waits.iter().all(|wait| (500..=1002).contains(wait)),
        "{waits:?}"
    );
    assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
}

#[test]
fn a_peer_that_is_not_a_trusted_proxy_cannot_choose_its_address() {
    let service = TestService::start(Config {
        trusted_proxies: TrustedProxies::default(),
        ..limited(0.0, SLOW)
    });
    assert_eq!(from(&service, "198.51.100.1", &array(1)).status, 202);
    assert_eq!(from(&service, "198.51.100.2", &array(1)).status, 429);
}

#[test]
fn a_flood_of_invented_users_does_not_lock_out_other_users() {
    let service = TestService::start(Config {
        buffer_reactions: 1_000_000,
        ..limited(1.0, 0.0)
    });
    assert_eq!(service.post("/v1/reactions", of(&["calm"])).status, 202);
    for flood in 0..300 {
        let one = |user| format!(r#"{{"user_id":"{flood}-{user}","emoji_type":"🔥"}}"#);
        let body = format!("[{}]", (0..1000).map(one).collect::<Vec<_>>().join(","));
        assert_eq!(service.post("/v1/reactions", body).status, 202);
    }
    assert_eq!(service.post("/v1/reactions", of(&["calm"])).status, 202);
}
