//! Tests of the whole path of a reaction in `up`: posted reactions are received as exact counts.

use std::{
    collections::BTreeMap,
    io::Read,
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    self, DEADLINE,
    finals::{self, Final},
    http, kafka,
    node::{self, Node},
    rooms::Watcher,
    sse,
    supervised::free_addresses,
    unique, until, until_within, ws,
};

const FIRES: usize = 2500;
const CLAPS: usize = 300;
const OVER: Duration = Duration::from_secs(3);
const WINDOW_MS: u64 = 2000;
const SWARM_SIZE: u64 = 1000;
/// Flags for a trending span that is longer than any test, so that the span contains all reactions.
const LONG_SPAN: &[&str] = &["--trending-span", "10m"];

#[test]
fn reactions_in_three_forms_are_counted_exactly_in_finals() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), LONG_SPAN);
    a_load_of_many_users_is_counted_exactly(&node);
    let frame = the_crowd_is_trending(&node);
    let data = dir.path().join("data");
    inspected(&["--data", data.to_str().unwrap()]);
    let status = node.stop(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "a drain after SIGTERM ends well");

    let restarted = Node::up(dir.path(), LONG_SPAN);
    let mut late = ws::Subscriber::connect(&restarted.address, "match-7", None).unwrap();
    assert_eq!(next_trending(&mut late), frame, "also after a restart");
}

#[test]
fn the_same_with_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("up"));
    let node = Node::up_on_kafka(dir.path(), &brokers, &prefix, LONG_SPAN);
    a_load_of_many_users_is_counted_exactly(&node);
    the_crowd_is_trending(&node);
    inspected(&["--kafka", &brokers, "--topic-prefix", &prefix]);
    let status = node.stop(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0), "a drain after SIGTERM ends well");
}

fn a_load_of_many_users_is_counted_exactly(node: &Node) {
    let expected = BTreeMap::from([
        ("🔥".to_owned(), FIRES as u64),
        ("👏".to_owned(), CLAPS as u64),
    ]);
    let watcher = Watcher::follow(Arc::new(Mutex::new(node.address.clone())), "match-7");
    until("a WebSocket's hello", || {
        (watcher.hellos() > 0).then_some(())
    });
    let mut events = sse::Subscriber::connect(&node.address, "match-7", None);

    post_over_time(&node.address);
    let mut seen = BTreeMap::new();
    let by_websocket = until("finals of all that was posted", || {
        let finals = watcher.finals();
        let sum = finals::sum(&finals);
        if sum != seen {
            seen = sum;
            println!("so far: {seen:?} of {expected:?}");
        }
        (seen == expected).then_some(finals)
    });
    for one in &by_websocket {
        one.check(WINDOW_MS, SWARM_SIZE);
    }
    assert_eq!(by_websocket.last().unwrap().totals, expected);
    let ids: Vec<u64> = by_websocket.iter().map(Final::offset).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "ids rise: {ids:?}");

    let by_events = sse_finals(&mut events, by_websocket.len());
    assert_eq!(
        by_events, by_websocket,
        "both kinds of subscriber see the same"
    );
    let mut resumed = sse::Subscriber::connect(&node.address, "match-7", Some(&by_websocket[0].id));
    let rest = sse_finals(&mut resumed, by_websocket.len() - 1);
    assert_eq!(rest, by_websocket[1..], "resumed behind the first final");

    let history = harness::http::get(&node.address, "/v1/rooms/match-7/history").unwrap();
    assert_eq!(history.status, 200, "{history:?}");
    assert_eq!(harness::http::finals(&history), by_websocket);
    let rooms = harness::http::get(&node.address, "/v1/rooms").unwrap();
    assert!(rooms.body.contains("match-7"), "{rooms:?}");
}

/// Waits until the reactions are trending in their room and across all rooms. Returns the room's trending frame.
fn the_crowd_is_trending(node: &Node) -> Value {
    let top = json!([{"emoji": "🔥", "count": FIRES}, {"emoji": "👏", "count": CLAPS}]);
    let frame = json!({"type": "trending", "room": "match-7", "span_ms": 600_000, "top": top});
    let of = |path: &str| http::get(&node.address, path).unwrap().json()["trending"].take();
    until("the crowd to be trending", || {
        (of("/v1/rooms/match-7") == frame).then_some(())
    });
    let mut late = ws::Subscriber::connect(&node.address, "match-7", None).unwrap();
    assert_eq!(next_trending(&mut late), frame);
    let rooms = json!([{"room": "match-7", "count": FIRES + CLAPS}]);
    let leaders = json!({"span_ms": 600_000, "top": top, "rooms": rooms});
    until("the crowd to lead", || {
        (of("/v1/rooms") == leaders).then_some(())
    });
    frame
}

fn next_trending(subscriber: &mut ws::Subscriber) -> Value {
    until("a trending frame", || {
        let frame = subscriber.next(DEADLINE).unwrap()?;
        (frame["type"] == "trending").then_some(frame)
    })
}

/// Sends reactions to /v1/reactions as objects and as arrays, and to the path for clients of other servers.
fn post_over_time(address: &str) {
    let one = |emoji: &str| json!({"user_id": "u-1", "emoji_type": emoji, "room": "match-7"});
    let alias = json!({"client_id": 5, "emoji": "clap", "room": "match-7"});
    // Each round has the same parts: 🔥 96 times in an array and 4 times alone, and 👏 12 times. 25 rounds add up to 2500
    // 🔥 and 300 👏.
    let rounds = 25;
    let start = Instant::now();
    for round in 0..rounds {
        let array = Value::Array(vec![one("🔥"); FIRES / rounds - 4]).to_string();
        accepted(address, "/v1/reactions", &array, 202);
        for _ in 0..4 {
            accepted(address, "/v1/reactions", &one(":fire:").to_string(), 202);
        }
        for _ in 0..CLAPS / rounds {
            accepted(address, "/send_emoji", &alias.to_string(), 200);
        }
        let due = OVER * (round as u32 + 1) / rounds as u32;
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
}

fn accepted(address: &str, path: &str, body: &str, status: u16) {
    let answer = http::post(address, path, body).unwrap();
    assert_eq!(answer.status, status, "{answer:?}");
}

fn sse_finals(events: &mut sse::Subscriber, count: usize) -> Vec<Final> {
    let mut finals = Vec::new();
    while finals.len() < count {
        let event = events.next();
        assert_eq!(event.kind, event.data["type"].as_str().unwrap());
        if let Some(one) = Final::of(&event.data) {
            assert_eq!(event.id.as_ref(), Some(&one.id));
            finals.push(one);
        }
    }
    finals
}

/// Asserts that `inspect` reads the same results from the topics while `up` runs.
fn inspected(store: &[&str]) {
    let read = |topic: &str| -> Vec<Value> {
        let arguments = [
            &["inspect", topic, "--format", "json", "--room", "match-7"],
            store,
        ]
        .concat();
        node::output(&arguments)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let windows = read("windows");
    let total: u64 = windows
        .iter()
        .map(|w| w["value"]["total"].as_u64().unwrap())
        .sum();
    assert_eq!(total, (FIRES + CLAPS) as u64);
    assert_eq!(
        read("totals").last().unwrap()["value"]["total"],
        FIRES + CLAPS
    );
    let trending = read("trending");
    assert_eq!(
        trending.last().unwrap()["value"]["top"][0],
        json!({"emoji": "🔥", "count": FIRES})
    );
    let reactions = read("reactions")
        .iter()
        .map(|r| r["value"]["batch"]["reactions"].as_array().unwrap().len())
        .sum::<usize>();
    assert_eq!(reactions, FIRES + CLAPS);
    assert_eq!(read("rejected").len(), 0);
    let table = node::output(&[&["inspect", "progress"], store].concat());
    assert!(table.contains("final up to"), "{table}");
}

#[test]
fn connections_beyond_the_rate_get_503_and_retry_after() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &["--connection-rate", "1/m"]);
    let first = http::get(&node.address, "/v1/rooms").unwrap();
    assert_eq!(first.status, 200);
    // The client sends nothing. If a server closes a connection with unread bytes, the connection may be reset before
    // the response is read.
    let mut second = TcpStream::connect(&node.address).unwrap();
    let mut body = String::new();
    second.read_to_string(&mut body).unwrap();
    assert!(body.starts_with("HTTP/1.1 503 "), "{body}");
    assert!(
        body.contains("retry-after: ") && body.contains("new connections"),
        "{body}"
    );
}

#[test]
fn a_trending_list_ends_after_its_span() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &["--trending-span", "4s"]);
    let mut watcher = ws::Subscriber::connect(&node.address, "goal", None).unwrap();
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": "goal"}).to_string();
    accepted(&node.address, "/v1/reactions", &body, 202);
    let fire = json!([{"emoji": "🔥", "count": 1}]);
    assert_eq!(next_trending(&mut watcher)["top"], fire);
    assert_eq!(next_trending(&mut watcher)["top"], json!([]));
    for path in ["/v1/rooms/goal", "/v1/rooms"] {
        until("the end", || {
            let state = http::get(&node.address, path).unwrap().json();
            state["trending"].is_null().then_some(())
        });
    }
}

#[test]
fn totals_begin_at_0_after_the_retention_and_the_room_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    totals_begin_again(&["--data", data.to_str().unwrap()], |flags| {
        Node::up(dir.path(), flags)
    });
}

#[test]
fn totals_begin_at_0_after_the_retention_and_the_room_is_removed_on_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("retention"));
    totals_begin_again(&["--kafka", &brokers, "--topic-prefix", &prefix], |flags| {
        Node::up_on_kafka(dir.path(), &brokers, &prefix, flags)
    });
}

/// Asserts that the totals of a room begin at 0 again after their retention, also at a relay, and also after a SIGKILL.
fn totals_begin_again(log: &[&str], start: impl Fn(&[&str]) -> Node) {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_addresses(1).remove(0));
    let flags = ["--totals-retention", "4s", "--trending-span", "4s"];
    let flags = [&flags[..], &["--relay-listen", &port]].concat();
    let node = start(&flags);
    let relay = ["relay", "--upstream", &port, "--listen", "127.0.0.1:0"];
    let relay = [&relay[..], &["--admin", "off"]].concat();
    let relay = Node::start(&relay, &dir.path().join("relay"));
    let fire = json!({"user_id": 1, "emoji_type": "🔥", "room": "goal"});
    let until_totals = |node: &Node, expected: Value| {
        until_within(Duration::from_secs(60), "the totals of the room", || {
            let state = http::get(&node.address, "/v1/rooms/goal").unwrap();
            let totals = match state.status {
                // 404 means that the room was removed, so it has no totals.
                404 => json!([]),
                _ => state.json()["totals"].clone(),
            };
            (totals == expected).then_some(())
        });
    };
    let fires = |count: u64| json!([{"emoji": "🔥", "count": count}]);
    let twice = json!([fire, fire]).to_string();
    accepted(&node.address, "/v1/reactions", &twice, 202);
    for node in [&node, &relay] {
        until_totals(node, fires(2));
    }
    for node in [&node, &relay] {
        until_totals(node, json!([]));
    }
    let inspect = ["inspect", "totals", "--room", "goal", "--format", "json"];
    let totals = node::output(&[&inspect, log].concat());
    let newest = totals.lines().last().unwrap();
    assert!(newest.contains("\"removed\""), "{totals}");
    node.kill();

    let node = start(&flags);
    accepted(&node.address, "/v1/reactions", &fire.to_string(), 202);
    for node in [&node, &relay] {
        until_totals(node, fires(1));
    }
}

#[test]
fn a_terminal_subscriber_follows_over_both_transports() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let url = format!("http://{}", node.address);
    for transport in [&[][..], &["--sse"]] {
        let room = unique("terminal");
        let mut arguments = vec!["subscribe", "--url", &url, "--room", &room, "--json"];
        arguments.extend(transport);
        let (log, lines) = (dir.path().join("errors"), dir.path().join(&room));
        let out = std::fs::File::create(&lines).unwrap();
        let mut child = node::emostream(&arguments)
            .stdout(out)
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let has = |what: &str| {
            let text = std::fs::read_to_string(&lines).unwrap();
            text.contains(what).then_some(())
        };
        until("hello in the terminal", || has("\"type\":\"hello\""));
        let body = json!({"user_id": 1, "emoji_type": "🔥", "room": room}).to_string();
        accepted(&node.address, "/v1/reactions", &body, 202);
        until_within(Duration::from_secs(30), "final in the terminal", || {
            has("\"type\":\"final\"")
        });
        until("what is trending in the terminal", || {
            has("\"type\":\"trending\"")
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn inspect_follows_up_through_a_kill_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let inspect = [
        "inspect",
        "reactions",
        "--format",
        "json",
        "--room",
        "a",
        "--data",
        data,
    ];
    let react = |node: &Node, user: &str| {
        let body = json!({"user_id": user, "emoji_type": "🔥", "room": "a"}).to_string();
        accepted(&node.address, "/v1/reactions", &body, 202);
    };
    let (log, lines) = (dir.path().join("errors"), dir.path().join("lines"));
    let out = std::fs::File::create(&lines).unwrap();
    let follow = [&inspect[..], &["--follow"]].concat();
    let mut follower = node::spawn(&follow, &log, out.into());
    let followed = |user: &str| {
        let text = std::fs::read_to_string(&lines).unwrap();
        text.contains(user).then_some(())
    };
    react(&node, "the-first");
    until("the first reaction", || followed("the-first"));
    node.kill();
    // The socket of the killed process still exists. It does not prevent `inspect` from reading.
    assert!(dir.path().join("data/log.sock").exists());
    assert!(node::output(&inspect).contains("the-first"));
    assert!(follower.try_wait().unwrap().is_none());
    let node = Node::up(dir.path(), &[]);
    react(&node, "the-second");
    until("the second reaction", || followed("the-second"));
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    assert!(!dir.path().join("data/log.sock").exists());
}
