//! Trending lists: all subscribers receive the newest list, and an empty list when nothing is trending any more.

use emostream_log::testing::{now_ms, until};
use emostream_model::{Emoji, FRAME_COUNTS};
use serde_json::{Value, json};

use crate::{
    clients::{Sse, Subscriber, Ws, get},
    counting::{timed, trending},
    fixture::{Fixture, Node},
};

fn state(node: &Node, room: &str) -> Value {
    get(node.address, &format!("/v1/rooms/{room}")).json()["trending"].take()
}

#[test]
fn a_subscriber_is_sent_the_trending_list_and_its_end() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let (mut ws, mut sse) = (
        Ws::join(node.address, "r", ""),
        Sse::join(node.address, "r", "", ""),
    );
    assert_eq!((ws.next().kind(), sse.next().kind()), ("hello", "hello"));
    fixture.counting.trending(1, "r", &[("🔥", 7), ("👏", 3)]);
    let text = r#"{"type":"trending","room":"r","span_ms":60000,"top":[{"emoji":"🔥","count":7},{"emoji":"👏","count":3}]}"#;
    assert_eq!((&*ws.next().text, &*sse.next().text), (text, text));
    let shown: Value = serde_json::from_str(text).unwrap();
    assert_eq!(state(&node, "r"), shown);

    fixture.counting.trending(31, "r", &[]);
    let text = r#"{"type":"trending","room":"r","span_ms":60000,"top":[]}"#;
    assert_eq!((&*ws.next().text, &*sse.next().text), (text, text));
    assert_eq!(state(&node, "r"), Value::Null);
    until("counted", || {
        node.metric(r#"frames_total{type="trending"}"#) == 2.0
            && node.metric(r#"deliveries_total{type="trending"}"#) == 4.0
    });
}

#[test]
fn a_new_subscriber_is_sent_the_trending_list_unless_it_is_empty() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.trending(1, "r", &[("🔥", 1)]);
    fixture.counting.trending(2, "r", &[("👏", 2)]);
    fixture.counting.trending(1, "over", &[("🔥", 1)]);
    fixture.counting.trending(31, "over", &[]);
    fixture.counting.close(40, &[("over", &[("🔥", 1)])]);
    fixture.counting.close(40, &[("r", &[("🔥", 1)])]);
    fixture.counting.live(41, "r", &[("🔥", 9)]);
    until("read", || {
        let live = get(node.address, "/v1/rooms/r").json()["live"].take();
        state(&node, "r")["top"][0]["emoji"] == "👏"
            && state(&node, "over").is_null()
            && !live.is_null()
    });
    let mut joined = Ws::join(node.address, "r", "").brief(4);
    joined.remove(1);
    assert_eq!(joined, ["hello false", "trending 👏", "live 9"]);

    let mut over = Ws::join(node.address, "over", "");
    let last = over.finals(1).remove(0);
    // No trending list is sent before this one.
    fixture.counting.trending(41, "over", &[("😂", 1)]);
    assert_eq!(over.brief(1), ["trending 😂"]);
    drop(over);

    // A subscriber that reconnects may still show a list that was emptied in between, so it is sent the empty list.
    let id = last.json["id"].as_str().unwrap();
    fixture.counting.trending(71, "over", &[]);
    until("over", || state(&node, "over").is_null());
    let mut back = Ws::join(node.address, "over", &format!("?since={id}"));
    assert_eq!(back.brief(2), ["hello true", "trending "]);
}

#[test]
fn a_restarted_publisher_sends_trending_lists_and_ends_old_ones() {
    let mut fixture = Fixture::new();
    // A list that has not changed for an hour has a record that is an hour old.
    let long_ago_ms = now_ms() - 3_600_000;
    let steady = trending(1, "steady", &[("🔥", 1)]);
    fixture.counting.append(timed(steady, long_ago_ms));
    fixture.counting.close(2, &[("over", &[("🔥", 1)])]);
    fixture.counting.trending(2, "over", &[("🔥", 1)]);
    fixture.counting.trending(32, "over", &[]);
    let node = fixture.publisher();
    assert_eq!(
        Ws::join(node.address, "steady", "").brief(2),
        ["hello false", "trending 🔥"]
    );
    let last = Ws::join(node.address, "over", "").finals(1).remove(0);
    let id = last.json["id"].as_str().unwrap();
    let mut back = Ws::join(node.address, "over", &format!("?since={id}"));
    assert_eq!(back.brief(2), ["hello true", "trending "]);
    // After the restore the publisher continues to read the topic.
    fixture.counting.trending(33, "over", &[("👏", 1)]);
    assert_eq!(back.brief(1), ["trending 👏"]);
}

#[test]
fn a_frame_lists_at_most_the_top_20() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let emojis: Vec<Emoji> = Emoji::all().take(FRAME_COUNTS + 5).collect();
    let top: Vec<(&str, u64)> = emojis.iter().map(|emoji| (emoji.as_str(), 1)).collect();
    fixture.counting.trending(1, "r", &top);
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    let frame = ws.next().json;
    assert_eq!(frame["top"].as_array().unwrap().len(), FRAME_COUNTS);
    assert_eq!(frame["others"], Value::Null, "the rest is not known");
}

#[test]
fn the_list_of_rooms_has_the_leaders() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let leaders = |node: &Node| get(node.address, "/v1/rooms").json()["trending"].take();
    assert_eq!(leaders(&node), Value::Null);
    fixture.counting.trending(4, "*", &[("🔥", 9)]);
    let expected = json!({
        "span_ms": 60_000, "top": [{"emoji": "🔥", "count": 9}],
        "rooms": [{"room": "default", "count": 4}],
    });
    until("read", || leaders(&node) == expected);
    // `*` is the key of the leaders, not a room.
    assert_eq!(get(node.address, "/v1/rooms/*").status, 400);
    assert_eq!(node.metric("rooms"), 0.0);
    let restarted = fixture.publisher();
    assert_eq!(leaders(&restarted), expected);
    fixture.counting.trending(34, "*", &[]);
    until("nothing leads", || leaders(&node).is_null());
}
