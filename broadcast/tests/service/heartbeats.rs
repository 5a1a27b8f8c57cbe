//! Heartbeats, by which a client detects a dead connection while its room is silent.

use std::time::{Duration, Instant};

use emostream_broadcast::{Config, SubscriberConfig};
use emostream_log::testing::now_ms;
use serde_json::json;

use crate::{
    clients::{Sse, Subscriber, Ws},
    counting::WINDOW_MS,
    fixture::{Fixture, Node, config, subscriber_config},
};

const HEARTBEAT: Duration = Duration::from_secs(3);

/// Maximum time by which a heartbeat may be early, since a shard sweeps each connection only once a second.
const SOONER: Duration = Duration::from_millis(1500);
/// Pause between two frames of a room that is not silent.
const PACE: Duration = Duration::from_millis(100);

fn often() -> SubscriberConfig {
    SubscriberConfig {
        heartbeat: HEARTBEAT,
        ..subscriber_config()
    }
}

fn publisher(fixture: &Fixture) -> Node {
    let config = Config {
        subscribers: often(),
        ..config()
    };
    Node::start(fixture.log.clone(), config)
}

/// Waits for two heartbeats of a subscriber. Returns the time before each of them.
fn silences(mut subscriber: impl Subscriber) -> Vec<Duration> {
    let hello = subscriber.next();
    assert_eq!(hello.json["heartbeat_ms"], json!(HEARTBEAT.as_millis()));
    let waits = (0..2).map(|_| {
        let begun = Instant::now();
        let beat = subscriber.next();
        assert_eq!(beat.kind(), "heartbeat");
        let now = beat.json["now"].as_u64().unwrap();
        assert!(now.abs_diff(now_ms()) < 2000, "{now}");
        begun.elapsed()
    });
    waits.collect()
}

#[test]
fn a_silent_room_is_sent_heartbeats_over_each_transport() {
    let fixture = Fixture::new();
    let node = publisher(&fixture);
    let relay = Node::relay_like(&[&node.accept_relays()], often());
    let joined = [node.address, relay.address].map(|address| {
        let by_websocket = Ws::join(address, "r", "");
        let by_events = Sse::join(address, "r", "", "");
        [
            std::thread::spawn(|| silences(by_websocket)),
            std::thread::spawn(|| silences(by_events)),
        ]
    });
    for waits in joined.into_iter().flatten() {
        for wait in waits.join().unwrap() {
            assert!(wait >= HEARTBEAT - SOONER, "{wait:?}");
        }
    }
}

#[test]
fn a_room_with_frames_is_not_sent_heartbeats() {
    let mut fixture = Fixture::new();
    let node = publisher(&fixture);
    let mut subscribers: Vec<Box<dyn Subscriber>> = vec![
        Box::new(Ws::join(node.address, "r", "")),
        Box::new(Sse::join(node.address, "r", "", "")),
    ];
    let (begun, mut last, mut sent) = (Instant::now(), Instant::now(), 0);
    while begun.elapsed() < 3 * HEARTBEAT {
        sent += 1;
        fixture.counting.close(sent, &[("r", &[("🔥", 1)])]);
        for subscriber in &mut subscribers {
            loop {
                let frame = subscriber.next();
                // On a busy host, this test itself may pause for so long that the server has to send a heartbeat.
                let silence = last.elapsed() > HEARTBEAT - SOONER;
                assert!(silence || frame.kind() != "heartbeat");
                if frame.json["start"] == json!(sent * WINDOW_MS) {
                    break;
                }
            }
        }
        last = Instant::now();
        std::thread::sleep(PACE);
    }
}
