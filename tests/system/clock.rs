//! Tests of `up` with a host clock that is ahead, and is corrected while `up` runs.

use std::time::Duration;

use serde_json::json;

use crate::harness::{faketime::HostClock, http, node::Node, until};

const HOUR: Duration = Duration::from_secs(3600);

/// Posts a reaction and waits until it is stored.
fn stored(node: &Node, room: &str) {
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": room}).to_string();
    let answer = http::post(&node.address, "/v1/reactions?wait=stored", &body).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Returns how many reactions of the room are final.
fn counted(node: &Node, room: &str) -> u64 {
    let state = http::get(&node.address, &format!("/v1/rooms/{room}")).unwrap();
    let totals = state.json()["totals"].as_array().cloned();
    let counts = totals.unwrap_or_default();
    counts
        .iter()
        .map(|tally| tally["count"].as_u64().unwrap())
        .sum()
}

/// Returns the value of a metric.
fn metric(node: &Node, name: &str) -> f64 {
    let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
    let sample = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    sample
        .unwrap_or_else(|| panic!("no {name} in {metrics}"))
        .parse()
        .unwrap()
}

#[test]
fn a_host_clock_that_steps_back_an_hour_loses_nothing_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = HostClock::new(dir.path());
    clock.ahead(HOUR);
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let up = [
        "up",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--data",
        data,
    ];
    let node = Node::start_in(&clock.environment(), &up, &dir.path().join("stderr"));

    stored(&node, "match-7");
    until("the first is final", || {
        (counted(&node, "match-7") == 1).then_some(())
    });
    assert!(metric(&node, "emostream_clock_ahead_seconds") < 60.0);

    clock.correct();
    // Two reactions are sent, and each becomes final. The window of the second one began after the clock stepped back.
    for count in 2..=3 {
        stored(&node, "match-7");
        until("it is final", || {
            (counted(&node, "match-7") == count).then_some(())
        });
    }
    let ahead = metric(&node, "emostream_clock_ahead_seconds");
    assert!((3540.0..3660.0).contains(&ahead), "{ahead}");
    assert_eq!(metric(&node, "emostream_dataflow_late_total"), 0.0);
    let ready = http::get(&node.admin(), "/readyz").unwrap();
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
}
