//! Resuming: a subscriber that reconnects is sent all finals since its last one, or a gap.

use emostream_broadcast::{Config, SubscriberConfig};
use emostream_log::testing::{Reads, now_ms, until};

use crate::{
    clients::{Sse, Subscriber, Ws, get},
    fixture::{Fixture, KEPT, Node, config, subscriber_config},
};

/// Waits until the room has `count` finals, and returns their ids, oldest first.
fn ids(node: &Node, room: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    until("read", || {
        let history = get(node.address, &format!("/v1/rooms/{room}/history")).json();
        let finals = history["finals"].as_array().unwrap();
        ids = finals
            .iter()
            .map(|f| f["id"].as_str().unwrap().to_owned())
            .collect();
        ids.len() == count
    });
    ids
}

#[test]
fn a_resumed_subscriber_is_sent_all_later_finals_then_the_live_tally() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    for nth in 1..=5 {
        fixture
            .counting
            .close(nth, &[("r", &[("🔥", nth)]), ("s", &[("👏", 1)])]);
    }
    fixture.counting.live(6, "r", &[("🔥", 60)]);
    let ids = ids(&node, "r", 5);
    let mut expected = vec!["hello true".to_owned()];
    expected.extend(ids[2..].iter().map(|id| format!("final {id}")));
    expected.push("live 60".to_owned());
    let since = format!("?since={}", ids[1]);
    until("live", || {
        get(node.address, "/v1/rooms/r").json()["live"]["total"] == 60
    });
    assert_eq!(Ws::join(node.address, "r", &since).brief(5), expected);
    assert_eq!(Sse::join(node.address, "r", &since, "").brief(5), expected);
    // The browser's `Last-Event-ID` has precedence over `since`, which the URL still has from the page's first request.
    let header = format!("Last-Event-ID: {}\r\n", ids[1]);
    let old = format!("?since={}", ids[0]);
    assert_eq!(
        Sse::join(node.address, "r", &old, &header).brief(5),
        expected
    );
    let newest = format!("?since={}", ids[4]);
    assert_eq!(
        Ws::join(node.address, "r", &newest).brief(2),
        ["hello true", "live 60"]
    );
}

/// If resumed finals were measured, a subscriber that reconnects after five minutes would count as a delay of five
/// minutes.
#[test]
fn resumed_finals_do_not_count_as_delayed() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    for nth in 1..=3 {
        fixture.counting.close(nth, &[("r", &[("🔥", nth)])]);
    }
    let ids = ids(&node, "r", 3);
    let mut ws = Ws::join(node.address, "r", &format!("?since={}", ids[0]));
    let mut sse = Sse::join(node.address, "r", "", "");
    assert_eq!((ws.finals(2).len(), sse.brief(2).len()), (2, 2));
    let counted = |sample: &str| node.metric(sample);
    until("counted", || {
        counted("deliveries_total{type=\"final\"}") == 3.0
    });
    assert_eq!(counted("delivery_seconds_count"), 0.0);
    fixture.counting.close(4, &[("r", &[("🔥", 4)])]);
    until("for both", || counted("delivery_seconds_count") == 2.0);
    assert_eq!(counted("deliveries_total{type=\"final\"}"), 5.0);
}

#[test]
fn a_subscriber_resumes_at_another_publisher() {
    let mut fixture = Fixture::new();
    let (one, another) = (fixture.publisher(), fixture.publisher());
    let mut ws = Ws::join(one.address, "r", "");
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    let first = ws.finals(1).remove(0);
    fixture.counting.close(2, &[("r", &[("🔥", 1)])]);
    let second = ws.finals(1).remove(0);
    let since = format!("?since={}", first.json["id"].as_str().unwrap());
    let mut ws = Ws::join(another.address, "r", &since);
    assert_eq!(ws.next().json["resumed"], true);
    assert_eq!(ws.next(), second);
}

#[test]
fn a_publisher_that_lags_behind_the_id_doubles_nothing() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    let known = ids(&node, "r", 1).remove(0);
    fixture.log.reads(Reads::Stall);
    fixture.counting.close(2, &[("r", &[("🔥", 2)])]);
    fixture.counting.close(3, &[("r", &[("🔥", 3)])]);
    // The subscriber was connected to another publisher, and has a second final, which this publisher has not read yet.
    let (partition, offset) = known.split_once('-').unwrap();
    let ahead = format!("{partition}-{}", offset.parse::<u64>().unwrap() + 1);
    let address = node.address;
    let joining = std::thread::spawn(move || {
        let mut ws = Ws::join(address, "r", &format!("?since={ahead}"));
        (ws.next().brief(), ws.next().json["total"].clone())
    });
    fixture.log.reads(Reads::Work);
    assert_eq!(joining.join().unwrap(), ("hello true".to_owned(), 3.into()));
}

#[test]
fn a_publisher_that_has_read_nothing_yet_waits_for_the_id() {
    // Another log with the same records shows which id the room's first final will have.
    let mut twin = Fixture::new();
    twin.counting.close(1, &[("r", &[("🔥", 1)])]);
    let first = ids(&twin.publisher(), "r", 1).remove(0);

    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.log.reads(Reads::Stall);
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    fixture.counting.close(2, &[("r", &[("🔥", 2)])]);
    let address = node.address;
    let joining = std::thread::spawn(move || {
        let mut ws = Ws::join(address, "r", &format!("?since={first}"));
        (ws.next().brief(), ws.next().json["total"].clone())
    });
    fixture.log.reads(Reads::Work);
    assert_eq!(joining.join().unwrap(), ("hello true".to_owned(), 2.into()));
}

#[test]
fn an_id_that_has_left_the_ring_is_answered_by_a_gap() {
    let mut fixture = Fixture::new();
    let old_ms = now_ms() - KEPT.as_millis() as u64 / 2;
    fixture.counting.close_at(old_ms, 1, &[("r", &[("🔥", 1)])]);
    fixture.counting.close_at(old_ms, 2, &[("r", &[("🔥", 1)])]);
    fixture.counting.close(3, &[("r", &[("🔥", 1)])]);
    let all = Node::start(
        fixture.log.clone(),
        Config {
            subscribers: SubscriberConfig {
                ring: KEPT,
                ..subscriber_config()
            },
            ..config()
        },
    );
    let ids_of_all = ids(&all, "r", 3);
    let node = fixture.publisher();
    let since = format!("?since={}", ids_of_all[0]);
    let expected = [
        "hello false".to_owned(),
        format!("gap {} expired", ids_of_all[0]),
        format!("final {}", ids_of_all[2]),
    ];
    assert_eq!(Ws::join(node.address, "r", &since).brief(3), expected);
    assert_eq!(Sse::join(node.address, "r", &since, "").brief(3), expected);
}

/// A page may stay open while the log is recreated. If its id of the old log were not recognised, the page would get no
/// finals until the new log has as many results as the old one.
#[test]
fn an_id_of_another_log_is_answered_by_a_gap_at_once() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    let known = ids(&node, "r", 1).remove(0);
    let partition = known.split_once('-').unwrap().0;
    for foreign in [format!("{partition}-100000"), "2000-1".to_owned()] {
        let mut ws = Ws::join(node.address, "r", &format!("?since={foreign}"));
        let expected = [
            "hello false".to_owned(),
            format!("gap {foreign} expired"),
            format!("final {known}"),
        ];
        assert_eq!(ws.brief(3), expected);
    }
    // In a room without results, a subscriber with an id of the old log is also sent a gap.
    let mut ws = Ws::join(node.address, "empty", "?since=0-100000");
    assert_eq!(ws.brief(2), ["hello false", "gap 0-100000 expired"]);
    fixture.counting.close(2, &[("empty", &[("🔥", 1)])]);
    assert_eq!(ws.next().json["total"], 1);
}

#[test]
fn finals_that_were_deleted_unread_are_announced_by_a_gap() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    // The finals are written with times that are older than the log's retention, so the log deletes the oldest ones at
    // its sweep.
    let old_ms = now_ms() - 2 * KEPT.as_millis() as u64;
    fixture.counting.close_at(old_ms, 1, &[("r", &[("🔥", 1)])]);
    let first = ws.finals(1).remove(0);
    fixture.log.reads(Reads::Stall);
    for nth in 2..=4 {
        fixture
            .counting
            .close_at(old_ms, nth, &[("r", &[("🔥", 1)])]);
    }
    fixture.counting.close(5, &[("r", &[("🔥", 1)])]);
    fixture.embedded.sweep().unwrap();
    fixture.log.reads(Reads::Work);
    let after = first.json["id"].as_str().unwrap();
    assert_eq!(ws.brief(1), [format!("gap {after} slow")]);
    assert_eq!(ws.next().json["start"], 10_000);
}

#[test]
fn a_subscriber_that_keeps_reconnecting_gets_every_final_once() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let address = node.address;
    let subscriber = std::thread::spawn(move || {
        let (mut got, mut since) = (Vec::new(), "?since=".to_owned());
        while got.len() < 60 {
            let mut ws = Ws::join(address, "r", &since);
            for last in ws.finals(1 + got.len() % 3) {
                since = format!("?since={}", last.json["id"].as_str().unwrap());
                got.push(last.json["start"].as_u64().unwrap() / 2000);
            }
        }
        got
    });
    until("joined", || {
        node.metric(r#"subscribers{transport="websocket"}"#) == 1.0
    });
    for nth in 1..=65 {
        fixture
            .counting
            .close(nth, &[("r", &[("🔥", 1)]), ("s", &[("🔥", 1)])]);
        until("read", || {
            get(node.address, "/v1/rooms/r").json()["final"]["start"] == nth * 2000
        });
    }
    let got = subscriber.join().unwrap();
    assert!((1..).zip(&got).all(|(nth, got)| nth == *got), "{got:?}");
}
