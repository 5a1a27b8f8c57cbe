//! Tests of servers that verify tokens of an identity provider: `--jwks-url`, a key set in a file, audiences and
//! issuers.

use std::{collections::BTreeSet, path::Path, time::Instant};

use serde_json::{Value, json};

use crate::harness::{
    authority::Authority,
    http::{self, Answer},
    kafka,
    key_sets::{KeySetEndpoint, Signer, key_set, signed_by_secret},
    node::Node,
    supervised::free_addresses,
    unique, until,
};

const AUDIENCE: &str = "emostream";
const ISSUER: &str = "https://id.example";

/// Starts `up` with `--admin` and `flags`.
fn up(dir: &Path, environment: &[(&str, String)], flags: &[&str]) -> Node {
    let data = dir.join("data");
    let mut arguments = vec!["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    arguments.extend(["--data", data.to_str().unwrap()]);
    arguments.extend(flags);
    Node::start_in(environment, &arguments, &dir.join("stderr"))
}

fn post(node: &Node, token: &str) -> Answer {
    let body = json!({"user_id": "u-17", "emoji_type": "🔥", "room": "a"}).to_string();
    let header = match token {
        "" => String::new(),
        token => format!("authorization: Bearer {token}\r\n"),
    };
    let path = "/v1/reactions?wait=stored";
    http::request_with(&node.address, "POST", path, &header, &body).unwrap()
}

fn readyz(node: &Node) -> (u16, String) {
    let answer = http::get(&node.admin(), "/readyz").unwrap();
    (answer.status, answer.body)
}

fn until_ready(node: &Node) {
    until("ready", || (readyz(node).0 == 200).then_some(()));
}

/// Returns the claims with the audience and the issuer that the servers of the tests require.
fn ours() -> Value {
    json!({"aud": AUDIENCE, "iss": ISSUER})
}

#[test]
fn tokens_are_accepted_through_a_rotation_of_keys_and_a_flood_costs_the_provider_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let endpoint = KeySetEndpoint::start(&[&old], None);
    let url = endpoint.url();
    let flags = [
        "--jwks-url",
        &url,
        "--jwt-audience",
        AUDIENCE,
        "--jwt-issuer",
        ISSUER,
    ];
    let node = up(dir.path(), &[], &flags);
    let began = Instant::now();
    until_ready(&node);
    assert_eq!(post(&node, &old.token(ours())).status, 200);
    let several = json!({"aud": ["other", AUDIENCE], "iss": ISSUER});
    assert_eq!(post(&node, &old.token(several)).status, 200);
    let room = format!("/v1/rooms/a?token={}", old.token(ours()));
    assert_eq!(http::get(&node.address, &room).unwrap().status, 200);
    assert_eq!(http::get(&node.address, "/v1/rooms/a").unwrap().status, 401);

    let jwk = old.jwk().to_string();
    for (token, words) in [
        (
            old.token(json!({"aud": "other", "iss": ISSUER})),
            "the token's aud is not one of",
        ),
        (old.token(json!({"iss": ISSUER})), "the token has no aud"),
        (
            old.token(json!({"aud": AUDIENCE, "iss": "https://other.example"})),
            "the token's iss is not one of",
        ),
        (old.token(json!({"aud": AUDIENCE})), "the token has no iss"),
        (
            old.token(json!({"aud": AUDIENCE, "iss": ISSUER, "exp": 1})),
            "has expired",
        ),
        // An attacker may use the public key as a secret for HS256, in PEM or as the endpoint publishes it. Such tokens
        // are rejected.
        (
            signed_by_secret(old.public.as_bytes(), "k1", ours()),
            "not a JWT",
        ),
        (signed_by_secret(jwk.as_bytes(), "k1", ours()), "not a JWT"),
        // The token has the `kid` of a known key, but another key has signed it.
        (new.token_with_kid("k1", ours()), "not a JWT"),
    ] {
        let answer = post(&node, &token);
        assert_eq!(answer.status, 401, "{words}: {answer:?}");
        assert!(answer.body.contains(words), "{words}: {answer:?}");
        assert!(answer.head.contains("invalid_token"), "{answer:?}");
        let room = format!("/v1/rooms/a?token={token}");
        assert_eq!(http::get(&node.address, &room).unwrap().status, 401);
    }
    assert_eq!(
        endpoint.requests(),
        1,
        "only kids that are unknown cause a fetch"
    );

    // The first token of a new key is accepted, and a token of the withdrawn key is rejected.
    endpoint.publish(&[&new]);
    assert_eq!(post(&node, &new.token(ours())).status, 200);
    assert_eq!(endpoint.requests(), 2);
    let withdrawn = post(&node, &old.token(ours()));
    assert_eq!(withdrawn.status, 401, "{withdrawn:?}");
    assert!(withdrawn.body.contains("kid"), "{withdrawn:?}");

    for invented in 0..300 {
        let token = new.token_with_kid(&format!("invented-{invented}"), ours());
        assert_eq!(post(&node, &token).status, 401);
    }
    let most = 2 + began.elapsed().as_secs() / 10;
    assert!(
        u64::from(endpoint.requests()) <= most,
        "{} requests, not {most}",
        endpoint.requests()
    );

    let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
    for line in [
        "emostream_jwks_keys 1",
        r#"emostream_jwks_refreshes_total{outcome="failed"} 0"#,
        "emostream_jwks_unknown_kids_total 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let served: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| {
            line.strip_prefix("# TYPE emostream_jwks_")?
                .split(' ')
                .next()
        })
        .collect();
    let page = include_str!("../../docs/metrics.md");
    let described: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `emostream_jwks_")?.split('`').next())
        .collect();
    assert_eq!(served, described, "docs/metrics.md");
}

#[test]
fn a_server_starts_without_the_provider_and_keeps_its_keys_when_the_provider_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let mut endpoint = KeySetEndpoint::stopped(&[&old], None);
    let url = endpoint.url();
    let node = up(dir.path(), &[], &["--jwks-url", &url]);
    until("the reason in /readyz", || {
        let (status, reason) = readyz(&node);
        let named = reason.contains(&url) && reason.contains("not reachable");
        (status == 503 && named).then_some(())
    });
    let early = post(&node, &old.token(json!({})));
    assert_eq!(early.status, 503, "{early:?}");
    assert!(early.head.contains("retry-after: "), "{early:?}");
    assert_eq!(post(&node, "").status, 401);
    assert_eq!(http::get(&node.address, "/").unwrap().status, 200);

    endpoint.server.run();
    until_ready(&node);
    assert_eq!(post(&node, &old.token(json!({}))).status, 200);

    endpoint.server.stop();
    // The provider may have a key for this token, so the response is not 401: the client should retry with the same
    // token.
    assert_eq!(post(&node, &new.token(json!({}))).status, 503);
    assert_eq!(post(&node, &old.token(json!({}))).status, 200);
    let (status, reason) = readyz(&node);
    assert_eq!(status, 200, "{reason}");
    assert!(
        reason.contains(&url) && reason.contains("stay in use"),
        "{reason}"
    );

    endpoint.publish(&[&new]);
    endpoint.server.run();
    until("the new key", || {
        (post(&node, &new.token(json!({}))).status == 200).then_some(())
    });
    until("no reason in /readyz", || {
        (readyz(&node).1 == "ready; dataflow: active\n").then_some(())
    });
    let logged = node.logged();
    let warnings = logged
        .lines()
        .filter(|line| line.contains("WARN") && line.contains("key set"));
    assert_eq!(
        warnings.count(),
        2,
        "one for each time that it was away: {logged}"
    );
}

#[test]
fn a_provider_in_tls_must_have_a_certificate_that_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority");
    let certificate = authority.certificate("provider", &["127.0.0.1"]);
    let signer = Signer::new("k1");
    let endpoint = KeySetEndpoint::start(&[&signer], Some(&certificate));
    let (url, other) = (endpoint.url(), Authority::new("other"));
    for (trusted, is_ready) in [(&other, false), (&authority, true)] {
        let home = tempfile::tempdir_in(dir.path()).unwrap();
        let file = home.path().join("authorities.pem");
        std::fs::write(&file, trusted.pem()).unwrap();
        let environment = [("SSL_CERT_FILE", file.to_str().unwrap().to_owned())];
        let node = up(home.path(), &environment, &["--jwks-url", &url]);
        if is_ready {
            until_ready(&node);
            assert_eq!(post(&node, &signer.token(json!({}))).status, 200);
        } else {
            until("the reason in /readyz", || {
                let (status, reason) = readyz(&node);
                (status == 503 && reason.contains("SSL_CERT_FILE")).then_some(())
            });
            assert_eq!(endpoint.requests(), 0);
        }
    }
}

#[test]
fn a_relay_verifies_tokens_with_a_key_set_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let signer = Signer::new("k1");
    let endpoint = KeySetEndpoint::start(&[&signer], None);
    let (url, port) = (endpoint.url(), free_addresses(1).remove(0));
    let _upstream = up(dir.path(), &[], &["--relay-listen", &port]);
    let arguments = ["relay", "--upstream", &port, "--jwks-url", &url];
    let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let relay = Node::start(
        &[&arguments[..], &listen].concat(),
        &dir.path().join("relay"),
    );
    until_ready(&relay);
    let rooms = |query: &str| {
        http::get(&relay.address, &format!("/v1/rooms{query}"))
            .unwrap()
            .status
    };
    assert_eq!(rooms(""), 401);
    assert_eq!(rooms(&format!("?token={}", signer.token(json!({})))), 200);
    let stranger = Signer::new("k1").token(json!({}));
    assert_eq!(rooms(&format!("?token={stranger}")), 401);
}

#[test]
fn an_ingest_and_a_publisher_verify_tokens_with_key_sets_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("key-sets"));
    kafka::create_topics(&brokers, &prefix, 1);
    let signer = Signer::new("k1");
    let endpoint = KeySetEndpoint::start(&[&signer], None);
    let url = endpoint.url();
    let start = |role: &str| {
        let mut arguments = vec![role, "--kafka", &brokers, "--topic-prefix", &prefix];
        arguments.extend(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        arguments.extend(["--jwks-url", &url]);
        let node = Node::start(&arguments, &dir.path().join(role));
        until_ready(&node);
        node
    };
    let (token, stranger) = (signer.token(json!({})), Signer::new("k1").token(json!({})));
    let (ingest, publisher) = (start("ingest"), start("publisher"));
    for (token, status) in [(token.as_str(), 200), (&stranger, 401), ("", 401)] {
        assert_eq!(post(&ingest, token).status, status);
        let rooms = http::get(&publisher.address, &format!("/v1/rooms?token={token}"));
        assert_eq!(rooms.unwrap().status, status);
    }
    assert_eq!(endpoint.requests(), 2);
}

#[test]
fn a_key_set_in_a_file_is_used_and_a_key_that_is_skipped_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, stranger) = (Signer::new("k1"), Signer::new("k2"), Signer::new("k3"));
    let mut set: Value = serde_json::from_str(&key_set(&[&one, &two])).unwrap();
    let mut encrypts = stranger.jwk();
    encrypts["use"] = json!("enc");
    set["keys"].as_array_mut().unwrap().push(encrypts);
    let file = dir.path().join("jwks.json");
    std::fs::write(&file, set.to_string()).unwrap();
    let flags = [
        "--jwt-key",
        file.to_str().unwrap(),
        "--jwt-audience",
        "a, b,c",
    ];
    let node = up(dir.path(), &[], &flags);
    for signer in [&one, &two] {
        assert_eq!(post(&node, &signer.token(json!({"aud": "b"}))).status, 200);
    }
    for (token, words) in [
        (stranger.token(json!({"aud": "b"})), "kid"),
        (one.token_with_kid("k2", json!({"aud": "b"})), "not a JWT"),
        (one.token(json!({"aud": "d"})), "aud"),
    ] {
        let answer = post(&node, &token);
        assert!(
            answer.status == 401 && answer.body.contains(words),
            "{answer:?}"
        );
    }
    assert_eq!(
        node.logged().matches("\"k3\" is skipped").count(),
        1,
        "{}",
        node.logged()
    );
}
