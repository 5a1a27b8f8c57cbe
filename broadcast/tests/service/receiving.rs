//! The messages that subscribers receive, over each transport.

use emostream_log::testing::{now_ms, until};
use emostream_model::Topics;

use crate::{
    clients::{Received, Sse, Subscriber, Ws, get},
    counting::{WINDOW_MS, keyed},
    fixture::Fixture,
};

#[test]
fn a_websocket_and_an_sse_subscriber_get_identical_finals_ids_included() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "match-7", "");
    let mut sse = Sse::join(node.address, "match-7", "", "");
    for nth in 1..=20 {
        let counts = [("🔥", 1000 * nth + 785), ("👏", nth)];
        fixture.counting.live(nth, "match-7", &counts[..1]);
        fixture
            .counting
            .close(nth, &[("match-7", &counts), ("other", &[("👍", 1)])]);
    }
    let (by_ws, by_sse) = (ws.finals(20), sse.finals(20));
    let texts =
        |finals: &[Received]| -> Vec<String> { finals.iter().map(|f| f.text.clone()).collect() };
    assert_eq!(texts(&by_ws), texts(&by_sse));
    for (nth, (ws, sse)) in (1_u64..).zip(by_ws.iter().zip(&by_sse)) {
        assert_eq!(sse.id.as_deref(), ws.json["id"].as_str());
        assert_eq!(ws.json["room"], "match-7");
        assert_eq!(ws.json["start"], nth * WINDOW_MS);
        assert_eq!(ws.json["end"], (nth + 1) * WINDOW_MS);
        assert_eq!(ws.json["total"], 1000 * nth + 785 + nth);
        assert_eq!(ws.json["counts"][0]["swarms"], nth);
        assert_eq!(ws.json["counts"][0]["loose"], 785);
    }
    let sum: u64 = (1..=20).map(|nth| 1000 * nth + 785).sum();
    assert_eq!(by_ws[19].json["totals"][0]["count"], sum);
    assert_eq!(by_ws[19].json["totals"][1]["count"], 210);
}

#[test]
fn hello_is_first_and_has_the_settings_of_windows() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut sse = Sse::join(node.address, "match-7", "", "");
    for hello in [Ws::join(node.address, "match-7", "").next(), sse.next()] {
        let now = &hello.json["now"];
        assert!(now.as_u64().unwrap().abs_diff(now_ms()) < 2000, "{now}");
        let expected = format!(
            r#"{{"type":"hello","room":"match-7","now":{now},"heartbeat_ms":15000,"latest":null,"window_ms":2000,"live_ms":250,"swarm_size":1000,"resumed":false}}"#
        );
        assert_eq!(hello.text, expected);
    }
    let head = sse.head.to_lowercase();
    for header in [
        "content-type: text/event-stream\r\n",
        "cache-control: no-cache\r\n",
        "x-accel-buffering: no\r\n",
    ] {
        assert!(head.contains(header), "{head}");
    }
}

#[test]
fn hello_has_the_newest_final_also_for_a_subscriber_that_resumes_before_it() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut there = Ws::join(node.address, "r", "");
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    fixture.counting.close(2, &[("r", &[("🔥", 2)])]);
    let ids: Vec<_> = there
        .finals(2)
        .into_iter()
        .map(|f| f.json["id"].clone())
        .collect();
    let since = format!("?since={}", ids[0].as_str().unwrap());
    for query in ["", &since] {
        let mut joined = Ws::join(node.address, "r", query);
        assert_eq!(joined.next().json["latest"], ids[1]);
        // The next message is a final result from before the subscription, and `latest` in `hello` is its id.
        assert_eq!(joined.next().json["id"], ids[1]);
    }
    let elsewhere = Ws::join(node.address, "elsewhere", "").next();
    assert_eq!(elsewhere.json["latest"], serde_json::Value::Null);
}

#[test]
fn a_new_subscriber_receives_the_newest_final_and_the_live_tally() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    fixture.counting.close(2, &[("r", &[("🔥", 2)])]);
    fixture.counting.live(3, "r", &[("🔥", 7)]);
    fixture.counting.live(3, "r", &[("🔥", 9)]);
    let state = || get(node.address, "/v1/rooms/r").json();
    until("read", || state()["live"]["total"] == 9);
    let newest = state()["final"]["id"].as_str().unwrap().to_owned();
    let expected = [
        "hello false".to_owned(),
        format!("final {newest}"),
        "live 9".to_owned(),
    ];
    assert_eq!(Ws::join(node.address, "r", "").brief(3), expected);
    assert_eq!(Sse::join(node.address, "r", "", "").brief(3), expected);
}

#[test]
fn a_live_tally_of_a_closed_window_is_dropped() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    assert_eq!(ws.next().kind(), "hello");
    fixture.counting.live(1, "r", &[("🔥", 1)]);
    assert_eq!(ws.brief(1), ["live 1"]);
    fixture.counting.close(1, &[("r", &[("🔥", 5)])]);
    assert_eq!(ws.next().json["total"], 5);
    fixture.counting.live(1, "r", &[("🔥", 4)]);
    fixture.counting.live(2, "r", &[("🔥", 3)]);
    assert_eq!(ws.brief(1), ["live 3"]);
}

#[test]
fn a_frame_lists_twenty_counts_and_the_sum_of_the_rest() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let emojis: Vec<&str> = emostream_model::Emoji::all()
        .take(30)
        .map(|e| e.as_str())
        .collect();
    let counts: Vec<(&str, u64)> = emojis.iter().copied().zip(100..).collect();
    fixture.counting.close(1, &[("r", &counts)]);
    let frame = Ws::join(node.address, "r", "").finals(1).remove(0).json;
    assert_eq!(frame["counts"].as_array().unwrap().len(), 20);
    assert_eq!(frame["totals"].as_array().unwrap().len(), 20);
    assert_eq!(frame["counts"][0]["count"], 129);
    let rest: u64 = (100..110).sum();
    assert_eq!(
        (&frame["others"], &frame["totals_others"]),
        (&rest.into(), &rest.into())
    );
}

#[test]
fn records_that_are_not_results_are_counted_and_skipped() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let topics = Topics::default();
    let mut ws = Ws::join(node.address, "r", "");
    for topic in [topics.windows(), topics.live()] {
        for value in [
            serde_json::json!({"room": "r"}),
            serde_json::json!("junk"),
            serde_json::json!({"room":"a room","start":0,"end":1,"total":0,"counts":[]}),
        ] {
            fixture.counting.append(keyed(topic.clone(), "r", &value));
        }
    }
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    assert_eq!(ws.finals(1)[0].json["total"], 1);
    until("counted", || node.metric("unreadable_total") == 6.0);
}

#[test]
fn results_with_huge_counts_are_served() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    let most = u64::MAX;
    let tallies: Vec<_> = emostream_model::Emoji::all()
        .take(25)
        .map(|emoji| serde_json::json!({"emoji": emoji, "count": most, "swarms": 0, "loose": 0}))
        .collect();
    for start in [1, 2] {
        let absurd = serde_json::json!({
            "room": "absurd", "start": start, "end": most, "total": most, "counts": tallies,
        });
        fixture
            .counting
            .append(keyed(Topics::default().windows(), "absurd", &absurd));
    }
    let last = serde_json::json!({
        "room": "absurd", "start": most, "end": most, "total": most, "counts": tallies,
    });
    fixture
        .counting
        .append(keyed(Topics::default().windows(), "absurd", &last));
    until("read", || {
        get(node.address, "/v1/rooms/absurd").json()["final"]["start"] == most
    });
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    assert_eq!(ws.finals(1)[0].json["total"], 1);
}

#[test]
fn an_observer_receives_everything_and_is_not_counted_as_audience() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut observers: [Box<dyn Subscriber>; 2] = [
        Box::new(Ws::join(node.address, "r", "?observer=true")),
        Box::new(Sse::join(node.address, "r", "?observer=true", "")),
    ];
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    for observer in &mut observers {
        assert_eq!(observer.finals(1)[0].json["total"], 1);
    }
    let audience = || {
        let listed = get(node.address, "/v1/rooms").json()["rooms"][0]["subscribers"].clone();
        assert_eq!(
            get(node.address, "/v1/rooms/r").json()["subscribers"],
            listed
        );
        listed
    };
    assert_eq!(audience(), 0);
    // The metric counts all connections, including those of observers.
    assert_eq!(node.metric(r#"subscribers{transport="websocket"}"#), 1.0);
    let mut fan = Ws::join(node.address, "r", "");
    fan.finals(1);
    assert_eq!(audience(), 1);
    drop(observers);
    until("gone", || {
        node.metric(r#"subscribers{transport="sse"}"#) == 0.0
    });
    assert_eq!(audience(), 1);
}

#[test]
fn subscribers_frames_and_deliveries_are_counted() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = Ws::join(node.address, "r", "");
    let mut sse = Sse::join(node.address, "r", "", "");
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    ws.finals(1);
    sse.finals(1);
    // A subscriber may receive a frame before the metric counts it, so the test waits for the metric.
    let counted = |name, times| until(name, || node.metric(name) == times);
    counted(r#"frames_total{type="final"}"#, 1.0);
    counted(r#"deliveries_total{type="final"}"#, 2.0);
    counted("delivery_seconds_count", 2.0);
    assert_eq!(node.metric(r#"subscribers{transport="websocket"}"#), 1.0);
    assert_eq!(node.metric(r#"subscribers{transport="sse"}"#), 1.0);
    assert_eq!(get(node.address, "/v1/rooms/r").json()["subscribers"], 2);
    drop((ws, sse));
    until("gone", || {
        node.metric(r#"subscribers{transport="websocket"}"#) == 0.0
            && node.metric(r#"subscribers{transport="sse"}"#) == 0.0
            && get(node.address, "/v1/rooms/r").json()["subscribers"] == 0
    });
}
