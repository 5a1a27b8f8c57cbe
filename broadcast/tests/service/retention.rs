//! Totals that begin at 0 again, and rooms that are removed.

use emostream_broadcast::RelayToken;
use emostream_log::{
    NewRecord,
    testing::{Reads, header, now_ms, until},
};
use emostream_model::{REMOVED_HEADER, RESETS_HEADER, Topics};
use serde_json::Value;

use crate::{
    clients::{Subscriber, Ws, get},
    counting::{nothing_written, removal, timed},
    fixture::{Fixture, KEPT, Node, PARTITIONS},
};

/// Returns a time that is before the ring of a publisher, but within the log's retention.
fn long_ago_ms() -> u64 {
    now_ms() - KEPT.as_millis() as u64 / 2
}

fn state(node: &Node) -> Value {
    get(node.address, "/v1/rooms/r").json()
}

fn total(node: &Node) -> Option<u64> {
    state(node)["total"].as_u64()
}

/// Returns the sum of the totals in each final of the ring.
fn totals(node: &Node) -> Vec<u64> {
    let history = get(node.address, "/v1/rooms/r/history").json();
    let sum = |closed: &Value| {
        let counts = closed["totals"].as_array().unwrap().iter();
        counts.map(|count| count["count"].as_u64().unwrap()).sum()
    };
    history["finals"]
        .as_array()
        .unwrap()
        .iter()
        .map(sum)
        .collect()
}

#[test]
fn totals_that_begin_again_are_the_same_at_a_publisher_that_starts_later() {
    let mut fixture = Fixture::new();
    fixture
        .counting
        .begin_at(long_ago_ms(), 1, "r", &[("🔥", 5), ("👏", 2)]);
    let first = fixture.publisher();
    let mut ws = Ws::join(first.address, "r", "");
    fixture.counting.close(2, &[("r", &[("🔥", 1)])]);
    let in_between = fixture.publisher();
    fixture.counting.begin_at(now_ms(), 900, "r", &[("🔥", 3)]);
    fixture.counting.close(901, &[("r", &[("👏", 4)])]);
    let last = fixture.publisher();
    let frames: Vec<String> = ws.finals(3).into_iter().map(|closed| closed.text).collect();
    assert!(
        frames[1].contains(r#""totals":[{"emoji":"🔥","count":3}]"#),
        "{}",
        frames[1]
    );
    for node in [&first, &in_between] {
        until("read", || totals(node) == [8, 3, 7]);
        assert_eq!(state(node)["totals"], state(&first)["totals"]);
    }
    // The totals record that this publisher has read does not contain the counts from before the totals last began at
    // 0. So the totals of the first final count only the finals in the ring.
    assert_eq!(totals(&last), [1, 3, 7]);
    assert_eq!(state(&last)["totals"], state(&first)["totals"]);
    for node in [&in_between, &last] {
        let history = get(node.address, "/v1/rooms/r/history").body;
        assert!(
            frames[1..].iter().all(|frame| history.contains(frame)),
            "{history}"
        );
    }
}

#[test]
fn totals_begin_again_in_another_partition_whichever_is_read_first() {
    for (first, second) in [(0, PARTITIONS - 1), (PARTITIONS - 1, 0)] {
        // The finals are either before the ring, so that they are added to a totals record, or in the ring.
        for written_ms in [long_ago_ms(), now_ms()] {
            let mut fixture = Fixture::new();
            let mut records = Vec::new();
            for nth in 1..=10 {
                let (of_window, of_totals) = match nth {
                    1 | 7 => fixture.counting.beginning(nth, "r", &[("🔥", nth)]),
                    _ => fixture.counting.records(nth, "r", &[("🔥", nth)]),
                };
                let partition = Some(if nth <= 5 { first } else { second });
                records.push(NewRecord {
                    partition,
                    ..of_window
                });
                if nth == 3 {
                    records.push(NewRecord {
                        partition,
                        ..of_totals
                    });
                }
            }
            records.push(nothing_written());
            let timed = records.into_iter().map(|record| timed(record, written_ms));
            fixture.counting.commit(timed.collect());
            let node = fixture.publisher();
            assert_eq!(
                total(&node),
                Some(7 + 8 + 9 + 10),
                "from {first} to {second}"
            );
        }
    }
}

#[test]
fn a_subscriber_of_a_removed_room_stays_and_sees_the_next_final_count_from_0() {
    let mut fixture = Fixture::new();
    fixture
        .counting
        .close_at(long_ago_ms(), 1, &[("r", &[("🔥", 7)])]);
    fixture.counting.trending(1, "r", &[("🔥", 7)]);
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.brief(2), ["hello false", "trending 🔥"]);
    assert_eq!(total(&node), Some(7));
    fixture.counting.remove("r", 900);
    assert_eq!(ws.brief(1), ["trending "]);
    assert_eq!(
        (total(&node), state(&node)["trending"].take()),
        (Some(0), Value::Null)
    );
    fixture.counting.begin_at(now_ms(), 950, "r", &[("👏", 2)]);
    let next = ws.finals(1).remove(0);
    assert_eq!(
        next.json["totals"],
        serde_json::json!([{"emoji": "👏", "count": 2}])
    );
    // The removal is of an earlier window than the last final, but is read after this final. This order is possible if
    // the removal is in another partition.
    fixture
        .counting
        .append(removal(Topics::default().trending(), "r", 940));
    fixture.counting.trending(950, "r", &[("👏", 2)]);
    assert_eq!(ws.brief(1), ["trending 👏"]);
    assert_eq!(total(&node), Some(2));
    assert_eq!(node.metric("unreadable_total"), 0.0);
}

#[test]
fn removed_rooms_use_no_memory() {
    let mut fixture = Fixture::new();
    let rooms: Vec<String> = (0..50).map(|nth| format!("r{nth}")).collect();
    for room in &rooms {
        fixture
            .counting
            .close_at(long_ago_ms(), 1, &[(room, &[("🔥", 7)])]);
        fixture.counting.trending(31, room, &[]);
    }
    let node = fixture.publisher();
    assert_eq!(node.metric("rooms"), 50.0);
    for room in &rooms[1..] {
        fixture.counting.remove(room, 900);
    }
    // Another program writes tombstones without the header that names a window. They are ignored.
    let topics = Topics::default();
    for topic in [topics.totals(), topics.trending()] {
        let deleted = NewRecord {
            headers: Vec::new(),
            ..removal(topic, "r0", 1)
        };
        fixture.counting.append(deleted);
    }
    let restarted = fixture.publisher();
    assert_eq!(restarted.metric("rooms"), 0.0);
    until("swept", || node.metric("rooms") == 1.0);
    for node in [&node, &restarted] {
        assert_eq!(node.metric("unreadable_total"), 0.0);
    }
}

#[test]
fn a_publisher_that_starts_after_a_removal_does_not_count_finals_before_it() {
    // The finals are either in the ring, or older, so that they would be added to a totals record.
    for written_ms in [now_ms(), long_ago_ms()] {
        let mut fixture = Fixture::new();
        let (of_window, of_totals) = fixture.counting.records(1, "r", &[("🔥", 7)]);
        let (later, _) = fixture.counting.records(2, "r", &[("🔥", 1)]);
        let records = [of_window, of_totals, later, nothing_written()];
        fixture
            .counting
            .commit(records.map(|record| timed(record, written_ms)).into());
        fixture.counting.remove("r", 900);
        let node = fixture.publisher();
        assert_eq!(total(&node), Some(0));
        fixture.counting.begin_at(now_ms(), 950, "r", &[("🔥", 3)]);
        let node = fixture.publisher();
        assert_eq!(total(&node), Some(3));
    }
}

#[test]
fn a_removal_after_a_backward_reset_is_later_than_finals_before_it() {
    let mut fixture = Fixture::new();
    fixture
        .counting
        .close_at(long_ago_ms(), 1800, &[("r", &[("🔥", 7)])]);
    let node = fixture.publisher();
    let mut removed = removal(Topics::default().trending(), "r", 900);
    fixture.counting.append(removed.clone());
    fixture.counting.trending(1, "s", &[("🔥", 1)]);
    until("read", || {
        !get(node.address, "/v1/rooms/s").json()["trending"].is_null()
    });
    assert_eq!(total(&node), Some(7), "a later window");
    removed.headers = vec![
        header(REMOVED_HEADER, "1800000"),
        header(RESETS_HEADER, "1"),
    ];
    fixture.counting.append(removed);
    until("removed", || total(&node) == Some(0));
}

/// The removal is in another topic than the finals before it, and there are more of these than one poll reads.
#[test]
fn a_publisher_that_is_behind_reads_the_finals_before_it_removes_a_room() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.log.reads(Reads::Stall);
    fixture.counting.close_many("r", 1..3000, &[("🔥", 1)]);
    fixture.counting.remove("r", 3500);
    fixture.log.reads(Reads::Work);
    until("removed", || {
        total(&node) == Some(0) && totals(&node).len() == 2999
    });
    assert!(totals(&node).into_iter().eq(1..3000));
}

/// Returns the responses of a node about the room.
fn shown(node: &Node) -> [String; 2] {
    ["/v1/rooms/r", "/v1/rooms/r/history"].map(|path| get(node.address, path).body)
}

/// Starts a publisher, a relay of it, and a relay of that relay. `before` writes to the log before they start,
/// `meanwhile` while the publisher is stopped. Returns the total of the room after all of them agree.
fn reconnect(before: impl FnOnce(&mut Fixture), meanwhile: impl FnOnce(&mut Fixture)) -> u64 {
    let mut fixture = Fixture::new();
    before(&mut fixture);
    let publisher = fixture.publisher();
    let address = publisher.accept_relays();
    let relay = Node::relay(&[&address]);
    let leaf = Node::relay(&[&relay.accept_relays()]);
    until("alike", || shown(&leaf) == shown(&publisher));
    drop(publisher);
    until("not ready", || relay.readiness.check().is_err());
    meanwhile(&mut fixture);
    let publisher = fixture.publisher();
    publisher.accept_relays_at(&address, RelayToken::default(), 10);
    until("alike", || {
        [&relay, &leaf]
            .map(shown)
            .iter()
            .all(|it| *it == shown(&publisher))
    });
    total(&publisher).unwrap()
}

#[test]
fn a_relay_that_reconnects_after_a_beginning_has_totals_that_are_smaller() {
    let total = reconnect(
        |fixture| fixture.counting.begin_at(now_ms(), 1, "r", &[("🔥", 9)]),
        |fixture| fixture.counting.begin_at(now_ms(), 900, "r", &[("🔥", 2)]),
    );
    assert_eq!(total, 2);
}

#[test]
fn a_relay_that_reconnects_after_a_removal_has_no_totals() {
    // The finals are in the ring, or older. If they are older, the restarted publisher does not have the room at all.
    for written_ms in [now_ms(), long_ago_ms()] {
        let total = reconnect(
            |fixture| {
                fixture.counting.begin_at(written_ms, 1, "r", &[("🔥", 9)]);
                fixture.counting.trending(31, "r", &[]);
            },
            |fixture| fixture.counting.remove("r", 900),
        );
        assert_eq!(total, 0);
    }
}

#[test]
fn a_relay_that_reconnects_keeps_rooms_that_were_not_removed() {
    let total = reconnect(
        |fixture| {
            fixture
                .counting
                .begin_at(long_ago_ms(), 1, "r", &[("🔥", 9)])
        },
        |fixture| fixture.counting.begin_at(now_ms(), 2, "s", &[("🔥", 1)]),
    );
    assert_eq!(total, 9);
}

#[test]
fn a_removal_and_a_beginning_reach_every_node_of_the_tree() {
    let mut fixture = Fixture::new();
    fixture
        .counting
        .begin_at(long_ago_ms(), 1, "r", &[("🔥", 9)]);
    let publisher = fixture.publisher();
    let relay = Node::relay(&[&publisher.accept_relays()]);
    let leaf = Node::relay(&[&relay.accept_relays()]);
    let nodes = [&publisher, &relay, &leaf];
    let mut subscribers = nodes.map(|node| Ws::join(node.address, "r", ""));
    assert_eq!(nodes.map(total), [Some(9); 3]);
    fixture.counting.remove("r", 900);
    until("removed", || nodes.map(total) == [Some(0); 3]);
    fixture.counting.begin_at(now_ms(), 950, "r", &[("🔥", 2)]);
    fixture.counting.begin_at(now_ms(), 1900, "r", &[("🔥", 3)]);
    fixture.counting.close(1901, &[("r", &[("🔥", 1)])]);
    for ws in &mut subscribers {
        let totals = ws.finals(3).into_iter();
        let totals: Vec<_> = totals
            .map(|it| it.json["totals"][0]["count"].as_u64())
            .collect();
        assert_eq!(totals, [Some(2), Some(3), Some(4)]);
    }
    until("alike", || nodes.map(total) == [Some(4); 3]);
}
