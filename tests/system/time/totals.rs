//! Tests of a totals topic that gets more partitions: newer records of a room may be in another partition than its
//! older ones.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::fixture::{Fixture, inspect};
use crate::harness::{DEADLINE, http, kafka, node::Node, within};

/// Number of rooms. Some of them move to a partition that is read before their old one.
const ROOMS: u64 = 24;
const MORE_PARTITIONS: u32 = 7;
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

type Totals = BTreeMap<String, u64>;

/// Returns a map with the same total for every room.
fn all(total: u64) -> Totals {
    let room = |number| (format!("room-{number}"), total);
    (0..ROOMS).map(room).collect()
}

/// Sends `reactions` reactions to every room.
fn react(node: &Node, reactions: usize) {
    let of = |room| json!({"user_id": 1, "emoji_type": "🔥", "room": room});
    let reactions = all(0)
        .into_keys()
        .flat_map(|room| vec![of(room); reactions]);
    let body = Value::Array(reactions.collect()).to_string();
    let answer = http::post(&node.address, "/v1/reactions?wait=stored", &body).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Returns the totals that the publisher serves.
fn shown(node: &Node) -> Totals {
    let total = |room: String| {
        let path = format!("/v1/rooms/{room}");
        let total = http::get(&node.address, &path).unwrap().json()["total"].clone();
        (room, total.as_u64().unwrap())
    };
    all(0).into_keys().map(total).collect()
}

/// Returns the total of each room's newest window in the topic.
fn stored(fixture: &Fixture) -> Totals {
    let mut newest: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in inspect("totals", &fixture.store()) {
        let of = |name: &str| record["value"][name].as_u64().unwrap();
        let room = record["value"]["room"].as_str().unwrap().to_owned();
        let known = newest.entry(room).or_default();
        *known = (*known).max((of("end"), of("total")));
    }
    let total = |(room, (_, total))| (room, total);
    newest.into_iter().map(total).collect()
}

/// Starts `up`, sends reactions, and waits until each room's total is `total`.
fn count(fixture: &Fixture, reactions: usize, total: u64) {
    let node = fixture.up(&[]);
    react(&node, reactions);
    let mut found = Totals::new();
    within(DEADLINE, || {
        found = stored(fixture);
        // All rooms have the same windows, so their totals are committed together. If one room has the last total, all
        // should have it.
        let last = *found.values().max()? >= total;
        (last && found.len() as u64 == ROOMS).then_some(())
    });
    assert_eq!(found, all(total));
    assert_eq!(node.stop(DRAINED_WITHIN).code(), Some(0));
}

#[test]
fn totals_never_go_back_when_their_topic_gets_partitions() {
    let fixture = Fixture::new("totals");
    count(&fixture, 5, 5);
    let totals = fixture.topic("totals");
    kafka::add_partitions(&fixture.brokers, &totals, MORE_PARTITIONS);
    count(&fixture, 3, 8);
    // A publisher computes the totals of a room from the totals topic and from retained finals. These finals are
    // deleted here, so only the totals topic remains.
    fixture.recreate("windows");
    let node = fixture.up(&[]);
    let begins = shown(&node);
    assert_eq!(node.stop(DRAINED_WITHIN).code(), Some(0));
    count(&fixture, 2, 10);
    assert_eq!(begins, all(8));
}
