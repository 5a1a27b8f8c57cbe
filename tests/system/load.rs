//! Tests of `emostream load`: its report matches the reactions that it sent, in one process and with separate roles.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    http, kafka,
    node::{self, Node},
    unique,
};

/// Runs a load that must succeed, and returns its report.
fn load(arguments: &[&str]) -> Value {
    let printed = node::output(&[&["load", "--json"][..], arguments].concat());
    serde_json::from_str(&printed).unwrap()
}

/// Asserts that all reactions of a report were accepted and counted once.
fn exact(report: &Value, reactions: u64) {
    assert_eq!(report["reactions"]["planned"], reactions, "{report}");
    assert_eq!(report["reactions"]["accepted"], reactions, "{report}");
    assert_eq!(report["verify"]["counted"], reactions, "{report}");
    assert_eq!(report["verify"]["exact"], true, "{report}");
}

#[test]
fn loads_are_counted_exactly_also_one_after_another_in_the_same_rooms() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let rooms = ["--url", &url, "--verify", "--rooms", "3", "--room", "hall"];

    let rate = ["--rate", "100/s", "--duration", "3s"];
    let more = ["--spike", "6x@1s+1s", "--batch", "10", "--probe", "5/s"];
    let report = load(&[&rooms[..], &rate, &more].concat());
    exact(&report, 800);
    assert_eq!(report["requests"]["answers"]["202 Accepted"], 80);
    assert!(
        report["answer_ms"]["p99_9"].as_f64() > Some(0.0),
        "{report}"
    );
    assert!(report["to_screen"]["shown"].as_u64() > Some(0), "{report}");

    let report = load(&[&rooms[..], &rate, &["--stored"]].concat());
    exact(&report, 300);
    assert_eq!(report["requests"]["answers"]["200 OK"], 300);

    let state = http::get(&node.address, "/v1/rooms").unwrap().json();
    let rooms = state["rooms"].as_array().unwrap().iter();
    let mut names: Vec<&str> = rooms.map(|room| room["room"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["hall-1", "hall-2", "hall-3"], "and no other rooms");
}

#[test]
fn the_output_has_the_room_the_latencies_and_the_verdict() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let printed = node::output(&[
        "load",
        "--url",
        &url,
        "--rate",
        "20/s",
        "--duration",
        "3s",
        "--verify",
    ]);
    for part in [
        &format!("{url}/?room=rehearsal\n"),
        "60 accepted in 60 requests: 60 × 202 Accepted",
        "p99.9",
        "to screen",
        "tries: p90 is based on the slowest 1, p99 on 1, p99.9 on 1",
        "every accepted reaction was counted exactly once; the longest pause on the screen was ",
    ] {
        assert!(printed.contains(part), "{part} is not in:\n{printed}");
    }
}

#[test]
fn a_load_without_verify_ends_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    let printed = node::output(&["load", "--url", &url, "--rate", "600/s", "--duration", "2s"]);
    let verdict = printed.lines().last().unwrap();
    for part in [
        "verdict    all 1,200 reactions were accepted; 99 of 100 responses arrived within",
        "; a reaction was on a screen after",
        " tries); the longest pause on the screen was ",
    ] {
        assert!(verdict.contains(part), "{part} is not in:\n{printed}");
    }
}

#[test]
fn a_load_without_accepted_reactions_fails_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &["--rooms", "match-.*"]);
    let url = format!("http://{}", node.address);
    let run = ["load", "--url", &url, "--rate", "50/s", "--duration", "1s"];
    for verify in [&[][..], &["--verify"]] {
        let output = node::run(&[&run[..], &["--room", "hall"], verify].concat());
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{printed}");
        assert_eq!(printed.trim_end().lines().count(), 1, "{printed}");
        for part in ["nothing was", "400 Bad Request", "hall"] {
            assert!(printed.contains(part), "{part} is not in: {printed}");
        }
    }
}

#[test]
fn a_load_on_separate_roles_needs_their_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("load"));
    let store = ["--kafka", &brokers, "--topic-prefix", &prefix];
    node::output(&[&["topics", "create", "--partitions", "2"][..], &store].concat());
    let start = |role: &str| {
        let more = match role {
            "dataflow" => &["--admin", "127.0.0.1:0"][..],
            _ => &["--admin", "off", "--listen", "127.0.0.1:0"],
        };
        let arguments = [&[role][..], &store, more].concat();
        let log = dir.path().join(role);
        match role {
            "dataflow" => Node::start_silent(&arguments, &log),
            _ => Node::start(&arguments, &log),
        }
    };
    let (ingest, publisher, dataflow) = (start("ingest"), start("publisher"), start("dataflow"));
    let url = format!("http://{}", ingest.address);
    let run = ["--url", &url, "--rate", "50/s", "--duration", "2s"];

    let alone = [&["load", "--verify"][..], &run].concat();
    let output = node::run(&alone);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{printed}");
    assert!(printed.contains("--subscribe-url"), "{printed}");

    let screens = format!("http://{}", publisher.address);
    let wrong = ["load", "--url", &screens, "--rate", "50/s"];
    let output = node::run(&[&wrong[..], &["--duration", "30m"]].concat());
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for part in ["ended early", "404 Not Found", "sent to an ingest"] {
        assert!(printed.contains(part), "{part} is not in: {printed}");
    }

    let metrics = format!("http://{}", dataflow.admin());
    let flags = ["--subscribe-url", &screens, "--metrics-url", &metrics];
    let report = load(&[&run[..], &flags, &["--verify"]].concat());
    exact(&report, 100);
    assert_eq!(report["verify"]["late"], 0, "{report}");

    let report = load(&run);
    assert_eq!(report["reactions"]["accepted"], 100, "{report}");
    assert_eq!(report["to_screen"], Value::Null, "no server to measure at");
    for role in [ingest, publisher, dataflow] {
        assert_eq!(role.stop(Duration::from_secs(20)).code(), Some(0));
    }
}
