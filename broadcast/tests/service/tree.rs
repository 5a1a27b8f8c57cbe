//! Trees of relays: all nodes send the same frames while nodes and subscribers connect and disconnect.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use emostream_broadcast::RelayToken;
use emostream_http::Readiness;
use emostream_log::testing::until;

use crate::{
    clients::{Sse, Subscriber, Ws, get},
    counting::trending,
    fixture::{Fixture, Node},
};

const ROOMS: [&str; 3] = ["a", "b", "c"];

/// Returns all responses of a node to plain requests, without the audience.
fn shown(node: &Node) -> Vec<String> {
    let mut shown = vec![get(node.address, "/v1/rooms").body];
    for room in ROOMS {
        for path in ["", "/history"] {
            shown.push(get(node.address, &format!("/v1/rooms/{room}{path}")).body);
        }
    }
    shown.iter().map(|text| without_audience(text)).collect()
}

fn without_audience(text: &str) -> String {
    let mut parts = text.split("\"subscribers\":");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        all + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

fn alike(nodes: &[&Node]) {
    for node in &nodes[1..] {
        until("alike", || shown(node) == shown(nodes[0]));
    }
}

fn close(fixture: &mut Fixture, windows: std::ops::Range<u64>) {
    for nth in windows {
        for (room, count) in ROOMS.iter().zip(1..) {
            let counts = [("🔥", count * nth), ("👏", 1)];
            fixture.counting.close(nth, &[(room, &counts[..])]);
        }
    }
}

#[test]
fn every_node_shows_the_same_bytes() {
    let mut fixture = Fixture::new();
    close(&mut fixture, 1..8);
    fixture.counting.trending(7, "a", &[("🔥", 9)]);
    fixture.counting.append(trending(7, "*", &[("👏", 3)]));
    fixture.counting.live(8, "b", &[("🔥", 4)]);
    let publisher = fixture.publisher();
    let first = Node::relay(&[&publisher.accept_relays()]);
    let second = Node::relay(&[&first.accept_relays()]);
    let nodes = [&publisher, &first, &second];
    // All nodes have the results from before the relays started. The rest of the test writes later results.
    alike(&nodes);
    let mut subscribers = nodes.map(|node| Ws::join(node.address, "b", ""));
    let before = subscribers.each_mut().map(|ws| {
        let mut hello = ws.next().json;
        // Each node sends its own time, so the times are not compared.
        assert!(hello["now"].take().is_u64());
        hello
    });
    assert!(before.iter().all(|hello| *hello == before[0]));
    close(&mut fixture, 8..20);
    fixture.counting.live(20, "b", &[("🔥", 5)]);
    fixture.counting.trending(19, "b", &[("👏", 9)]);
    fixture.counting.append(trending(19, "*", &[("👏", 4)]));
    alike(&nodes);
    let finals: Vec<Vec<String>> = subscribers
        .iter_mut()
        .map(|ws| ws.finals(13).into_iter().map(|f| f.text).collect())
        .collect();
    assert_eq!(finals[1], finals[0]);
    assert_eq!(finals[2], finals[0]);
    assert!(second.metric("relay_delay_seconds_count") > 0.0);
    assert_eq!(first.metric("relays"), 1.0);
}

#[test]
fn a_subscriber_that_resumes_at_a_relay_is_sent_every_later_final() {
    let mut fixture = Fixture::new();
    let publisher = fixture.publisher();
    let relay = Node::relay(&[&publisher.accept_relays()]);
    let mut ws = Ws::join(publisher.address, "a", "");
    close(&mut fixture, 1..3);
    let seen = ws.finals(2).pop().unwrap().json["id"].take();
    close(&mut fixture, 3..6);
    let (id, query) = (
        seen.as_str().unwrap(),
        format!("?since={}", seen.as_str().unwrap()),
    );
    let mut elsewhere = Ws::join(relay.address, "a", &query);
    let mut events = Sse::join(relay.address, "a", "", &format!("last-event-id: {id}\r\n"));
    assert_eq!(elsewhere.next().brief(), "hello true");
    assert_eq!(events.next().brief(), "hello true");
    let expected: Vec<String> = ws.finals(3).into_iter().map(|f| f.text).collect();
    for subscriber in [&mut elsewhere as &mut dyn Subscriber, &mut events] {
        for text in &expected {
            assert_eq!(subscriber.next().text, *text);
        }
    }
}

/// Returns the totals of the next finals, which must follow each other without a gap.
fn totals(ws: &mut Ws, count: usize) -> Vec<u64> {
    let mut totals = Vec::new();
    while totals.len() < count {
        let next = ws.next();
        assert_ne!(next.kind(), "gap", "{next:?}");
        if next.kind() == "final" {
            totals.push(next.json["total"].as_u64().unwrap());
        }
    }
    totals
}

#[test]
fn a_relay_connects_to_another_upstream_when_its_upstream_ends() {
    let mut fixture = Fixture::new();
    let (first, second) = (fixture.publisher(), fixture.publisher());
    let (at_first, at_second) = (first.accept_relays(), second.accept_relays());
    let relay = Node::relay(&[&at_first, &at_second]);
    let leaf = Node::relay(&[&relay.accept_relays()]);
    let mut subscribers = [&relay, &leaf].map(|node| Ws::join(node.address, "a", ""));
    close(&mut fixture, 1..4);
    drop(first);
    close(&mut fixture, 4..8);
    until("changed over", || second.metric("relays") == 1.0);
    close(&mut fixture, 8..10);
    for ws in &mut subscribers {
        assert_eq!(totals(ws, 9), (2..11).collect::<Vec<_>>());
    }
    alike(&[&second, &relay, &leaf]);
    assert_eq!(relay.metric("upstream_losses_total"), 1.0);
}

#[test]
fn a_relay_connects_to_another_upstream_when_its_upstream_sends_nothing() {
    let mut fixture = Fixture::new();
    let (first, second) = (fixture.publisher(), fixture.publisher());
    let frozen = Line::to(first.accept_relays());
    let relay = Node::relay(&[&frozen.address, &second.accept_relays()]);
    let mut ws = Ws::join(relay.address, "a", "");
    close(&mut fixture, 1..4);
    assert_eq!(totals(&mut ws, 3), [2, 3, 4]);
    frozen.freeze();
    close(&mut fixture, 4..6);
    assert_eq!(totals(&mut ws, 2), [5, 6]);
    assert_eq!(second.metric("relays"), 1.0);
    until("relay disconnected", || first.metric("relays") == 0.0);
}

#[test]
fn a_disconnected_relay_serves_its_rooms_and_catches_up() {
    let mut fixture = Fixture::new();
    close(&mut fixture, 1..3);
    let publisher = fixture.publisher();
    let address = publisher.accept_relays();
    let relay = Node::relay(&[&address]);
    let mut ws = Ws::join(relay.address, "a", "");
    assert_eq!(totals(&mut ws, 1), [3]);
    relay.readiness.check().unwrap();
    let before = shown(&publisher);
    drop(publisher);
    until("not ready", || relay.readiness.check().is_err());
    let why = relay.readiness.check().unwrap_err();
    assert!(why.contains(&address), "{why}");
    assert_eq!(shown(&relay)[1..], before[1..]);
    // The publisher is restarted, with results that the relay has not received yet.
    close(&mut fixture, 3..6);
    let publisher = fixture.publisher();
    publisher.accept_relays_at(&address, RelayToken::default(), 10);
    assert_eq!(totals(&mut ws, 3), [4, 5, 6]);
    until("ready", || relay.readiness.check().is_ok());
    alike(&[&publisher, &relay]);
}

/// If a disconnected relay does not know a final yet, the final is from its upstream, not from another log.
#[test]
fn a_subscriber_that_is_ahead_of_a_disconnected_relay_waits() {
    let mut fixture = Fixture::new();
    let publisher = fixture.publisher();
    let address = publisher.accept_relays();
    let relay = Node::relay(&[&address]);
    drop(publisher);
    close(&mut fixture, 1..3);
    let publisher = fixture.publisher();
    let mut ws = Ws::join(publisher.address, "a", "");
    let id = ws.finals(1).remove(0).json["id"].take();
    until("not ready", || relay.readiness.check().is_err());
    let query = format!("?since={}", id.as_str().unwrap());
    let address_of_relay = relay.address;
    let waiting = std::thread::spawn(move || Ws::join(address_of_relay, "a", &query));
    publisher.accept_relays_at(&address, RelayToken::default(), 10);
    assert_eq!(waiting.join().unwrap().next().brief(), "hello true");
}

#[test]
fn the_audience_of_the_whole_tree_is_counted() {
    let mut fixture = Fixture::new();
    close(&mut fixture, 1..2);
    let publisher = fixture.publisher();
    let first = Node::relay(&[&publisher.accept_relays()]);
    let second = Node::relay(&[&first.accept_relays()]);
    let audience = |room: &str| {
        let count = |node: &Node| {
            let state = get(node.address, &format!("/v1/rooms/{room}")).json();
            state["subscribers"].as_u64().unwrap()
        };
        [count(&publisher), count(&first), count(&second)]
    };
    let mut subscribers: Vec<_> = [&publisher, &first, &second, &second]
        .map(|node| Ws::join(node.address, "a", ""))
        .into();
    let _nowhere_else = Ws::join(second.address, "quiet", "");
    until("counted", || audience("a") == [4, 3, 2]);
    until("counted", || audience("quiet") == [1, 1, 1]);
    drop(subscribers.pop());
    until("one less", || audience("a") == [3, 2, 1]);
    let rooms = get(publisher.address, "/v1/rooms").json();
    let listed = rooms["rooms"].as_array().unwrap().iter();
    let listed: Vec<u64> = listed
        .filter(|listed| listed["room"] == "a")
        .map(|listed| listed["subscribers"].as_u64().unwrap())
        .collect();
    assert_eq!(listed, [3]);
    // The audience of a relay that has disconnected is not counted any more.
    drop(second);
    let audience = |node: &Node| get(node.address, "/v1/rooms/a").json()["subscribers"].as_u64();
    until("gone", || audience(&publisher) == Some(2));
    assert_eq!(audience(&first), Some(1));
}

#[test]
fn a_relay_cannot_be_its_own_upstream() {
    let mut fixture = Fixture::new();
    let publisher = fixture.publisher();
    let at_publisher = publisher.accept_relays();
    // The address of the second relay is reserved here, since the first relay is given this address as its other
    // upstream.
    let place = TcpListener::bind("127.0.0.1:0").unwrap();
    let at_second = place.local_addr().unwrap().to_string();
    drop(place);
    let first = Node::relay(&[&at_publisher, &at_second]);
    let second = Node::relay(&[&first.accept_relays()]);
    second.accept_relays_at(&at_second, RelayToken::default(), 10);
    drop(publisher);
    // If the relays connected to each other, the second relay would send the first one its own updates back.
    let both = |check: fn(&Readiness) -> bool| check(&first.readiness) && check(&second.readiness);
    until("cut off", || both(|readiness| readiness.check().is_err()));
    assert_eq!(second.metric("relays"), 0.0);
    close(&mut fixture, 1..3);
    let publisher = fixture.publisher();
    publisher.accept_relays_at(&at_publisher, RelayToken::default(), 10);
    until("final at the relay", || {
        both(|readiness| readiness.check().is_ok())
    });
    alike(&[&publisher, &first, &second]);
}

#[test]
fn results_of_another_log_end_a_relay() {
    let (mut fixture, mut other) = (Fixture::new(), Fixture::new());
    close(&mut fixture, 1..6);
    close(&mut other, 900..903);
    let (one, another) = (fixture.publisher(), other.publisher());
    let relay = Node::relay(&[&one.accept_relays(), &another.accept_relays()]);
    drop(one);
    let why = relay.fails();
    assert!(why.contains("another log"), "{why}");
}

/// A proxy that can freeze: then it forwards nothing, and keeps all connections open.
struct Line {
    address: String,
    frozen: Arc<AtomicBool>,
}

impl Line {
    fn to(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let frozen = Arc::new(AtomicBool::new(false));
        let freezes = frozen.clone();
        std::thread::spawn(move || {
            for here in listener.incoming().map_while(Result::ok) {
                let Ok(there) = TcpStream::connect(&upstream) else {
                    continue;
                };
                for (from, to) in [(&here, &there), (&there, &here)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let freezes = freezes.clone();
                    std::thread::spawn(move || carry(from, to, &freezes));
                }
            }
        });
        Self { address, frozen }
    }

    fn freeze(&self) {
        self.frozen.store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, frozen: &AtomicBool) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if !frozen.load(Ordering::SeqCst) && to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}
