//! Responses to plain requests: states, history, lists of rooms, the page, errors.

use emostream_broadcast::{Config, SubscriberConfig};
use emostream_log::testing::until;
use serde_json::{Value, json};

use crate::{
    clients::{ask, get},
    fixture::{Fixture, Node, config, subscriber_config},
};

#[test]
fn a_rooms_state_is_its_newest_final_its_open_tally_and_its_totals() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.close(1, &[("r", &[("🔥", 1000)])]);
    fixture.counting.close(2, &[("r", &[("👏", 2)])]);
    fixture.counting.live(3, "r", &[("🔥", 5)]);
    let state = || get(node.address, "/v1/rooms/r").json();
    until("read", || state()["live"]["total"] == 5);
    let state = state();
    assert_eq!(state["room"], "r");
    assert_eq!(state["final"]["start"], 4000);
    assert_eq!(state["total"], 1002);
    let totals = json!([{"emoji": "🔥", "count": 1000}, {"emoji": "👏", "count": 2}]);
    assert_eq!(state["totals"], totals);
    assert_eq!(state["subscribers"], 0);
}

#[test]
fn a_room_without_results_has_an_empty_state() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let answer = get(node.address, "/v1/rooms/nothing-yet");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let empty = json!({
        "room": "nothing-yet", "final": null, "live": null, "total": 0, "totals": [],
        "trending": null, "subscribers": 0,
    });
    assert_eq!(answer.json(), empty);
    let history = get(node.address, "/v1/rooms/nothing-yet/history").json();
    assert_eq!(history, json!({"room": "nothing-yet", "finals": []}));
    // A request of a room's state does not create the room.
    assert_eq!(
        get(node.address, "/v1/rooms").json(),
        json!({"rooms": [], "trending": null})
    );
    assert_eq!(node.metric("rooms"), 0.0);
}

#[test]
fn history_has_the_finals_in_the_ring_within_the_requested_time() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    for nth in 1..=5 {
        fixture.counting.close(nth, &[("r", &[("🔥", nth)])]);
    }
    let starts = |query: &str| -> Vec<u64> {
        let answer = get(node.address, &format!("/v1/rooms/r/history{query}"));
        let json = answer.json();
        let finals = json["finals"].as_array().unwrap();
        finals
            .iter()
            .map(|f| f["start"].as_u64().unwrap())
            .collect()
    };
    until("read", || starts("").len() == 5);
    assert_eq!(starts(""), [2000, 4000, 6000, 8000, 10_000]);
    assert_eq!(starts("?from=4000&to=8000"), [4000, 6000]);
    assert_eq!(starts("?from=1970-01-01T00:00:08Z"), [8000, 10_000]);
    assert_eq!(starts("?to=1970-01-01T00%3A00%3A04Z"), [2000]);
    assert_eq!(starts("?to=1970-01-01T02:00:04%2B02:00"), [2000]);
    assert_eq!(starts("?from=8000&to=4000"), Vec::<u64>::new());
}

#[test]
fn the_list_of_rooms_is_ordered_by_totals() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.close(
        1,
        &[("small", &[("🔥", 1)]), ("big", &[("🔥", 9), ("👏", 1)])],
    );
    fixture.counting.live(2, "new", &[("🔥", 1)]);
    let rooms = || get(node.address, "/v1/rooms").json();
    until("read", || rooms()["rooms"].as_array().unwrap().len() == 3);
    let rooms = rooms();
    let names: Vec<&Value> = rooms["rooms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["room"])
        .collect();
    assert_eq!(names, ["big", "small", "new"]);
    assert_eq!(rooms["rooms"][0]["total"], 10);
    assert_eq!(
        rooms["rooms"][0]["totals"][0],
        json!({"emoji": "🔥", "count": 9})
    );
}

#[test]
fn errors_are_problem_details() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let long = "x".repeat(65);
    for (line, status) in [
        ("GET /v1/rooms/a%20room".to_owned(), 400),
        (format!("GET /v1/rooms/{long}"), 400),
        ("GET /v1/rooms/".to_owned(), 400),
        ("GET /v1/rooms/r/history?from=yesterday".to_owned(), 400),
        ("GET /v1/rooms/r/history?to=-1".to_owned(), 400),
        ("GET /v1/rooms/r/events?since=x".to_owned(), 400),
        ("GET /v1/rooms/r/nothing".to_owned(), 404),
        ("GET /v1/nothing".to_owned(), 404),
        ("POST /v1/rooms/r".to_owned(), 405),
        ("DELETE /v1/rooms".to_owned(), 405),
        ("PUT /".to_owned(), 405),
        ("HEAD /v1/rooms/r/events".to_owned(), 405),
    ] {
        let answer = ask(node.address, &line, "");
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{line}"
        );
        assert_eq!(answer.header("allow").is_some(), status == 405, "{line}");
        if !line.starts_with("HEAD") {
            assert_eq!(answer.json()["status"], status, "{line}");
        }
    }
    for id in ["3", "x-1", "é"] {
        let header = format!("last-event-id: {id}\r\n");
        let answer = ask(node.address, "GET /v1/rooms/r/events", &header);
        assert_eq!(answer.status, 400, "{id}");
    }
}

#[test]
fn the_page_and_its_module_are_complete_and_have_a_strict_policy() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/?room=match-7", "text/html; charset=utf-8"),
        ("/emostream.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
    ] {
        let answer = get(node.address, path);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(kind))
        );
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"));
        assert!(
            !answer.body.contains("https://"),
            "{path} asks for something of others"
        );
        let head = ask(node.address, &format!("HEAD {path}"), "");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        let length = answer.body.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()));
    }
    let page = get(node.address, "/").body;
    assert!(!page.contains(" onclick=") && !page.contains("<style") && !page.contains("style="));
    assert!(page.contains("/viewer.js"));
    let element = get(node.address, "/emostream-room.js").body;
    for emoji in ["🔥", "👏", "😂", "❤️", "😮", "😢", "🎉", "👍"] {
        assert!(element.contains(emoji), "{emoji}");
    }
}

#[test]
fn only_pages_of_allowed_origins_receive_messages() {
    let fixture = Fixture::new();
    let open = fixture.publisher();
    let origin = "origin: https://example.org\r\n";
    let answer = ask(open.address, "GET /v1/rooms", origin);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    let answer = ask(open.address, "OPTIONS /v1/rooms/r/events", origin);
    assert_eq!(answer.status, 204);
    assert!(
        answer
            .header("access-control-allow-methods")
            .unwrap()
            .contains("GET")
    );

    let allow_origin = "https://example.org".parse().unwrap();
    let closed = Node::start(
        fixture.log.clone(),
        Config {
            subscribers: SubscriberConfig {
                allow_origin,
                ..subscriber_config()
            },
            ..config()
        },
    );
    let answer = ask(closed.address, "GET /v1/rooms", origin);
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://example.org")
    );
    for path in ["/v1/rooms", "/v1/rooms/r/events", "/v1/rooms/r/ws"] {
        let answer = ask(
            closed.address,
            &format!("GET {path}"),
            "origin: https://evil.example\r\n",
        );
        assert_eq!(answer.status, 403, "{path}");
    }
    assert_eq!(get(closed.address, "/v1/rooms").status, 200);
}

#[test]
fn pages_and_long_json_are_compressed_for_clients_that_accept_it() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let rooms: Vec<String> = (0..40).map(|room| format!("room-{room}")).collect();
    let counted = [("🔥", 1), ("👏", 2)];
    let closed: Vec<_> = rooms.iter().map(|room| (&**room, &counted[..])).collect();
    fixture.counting.close(1, &closed);
    let plain = |path: &str| get(node.address, path);
    until("room-39 is listed", || {
        plain("/v1/rooms").body.contains("room-39")
    });
    for path in ["/", "/emostream.js", "/style.css", "/v1/rooms"] {
        let plain = plain(path);
        assert_eq!(plain.header("content-encoding"), None, "{path}");
        assert_eq!(plain.header("vary"), Some("accept-encoding"), "{path}");
        for (accepted, encoding) in [("gzip, br", "br"), ("gzip, br;q=0", "gzip")] {
            let accept = format!("accept-encoding: {accepted}\r\n");
            let head = ask(node.address, &format!("HEAD {path}"), &accept);
            assert_eq!(head.header("content-encoding"), Some(encoding), "{path}");
            assert_eq!(head.header("vary"), Some("accept-encoding"), "{path}");
            assert_eq!(head.header("etag"), plain.header("etag"), "{path}");
            let bytes: usize = head.header("content-length").unwrap().parse().unwrap();
            assert!(bytes < plain.body.len(), "{path}: {bytes} bytes");
        }
    }
    let accept = "accept-encoding: br\r\n";
    // The response is shorter than the minimum for compression, so it is not compressed.
    let short = ask(node.address, "GET /v1/rooms/room-1", accept);
    assert_eq!(short.header("content-encoding"), None);
    assert_eq!(short.json()["room"], "room-1");
}

#[test]
fn a_response_that_has_no_body_announces_none() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let known = get(node.address, "/emostream.js");
    let known = format!("if-none-match: {}\r\n", known.header("etag").unwrap());
    for (line, headers, status) in [
        ("GET /emostream.js", &*known, 304),
        ("OPTIONS /v1/rooms", "", 204),
        ("GET /favicon.ico", "", 204),
    ] {
        let answer = ask(node.address, line, headers);
        assert_eq!(answer.status, status, "{line}");
        assert_eq!(answer.header("content-length"), None, "{line}");
        assert_eq!(answer.body, "", "{line}");
    }
}

#[test]
fn only_some_responses_may_be_cached() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    for (path, caching) in [
        ("/", "no-cache"),
        ("/emostream.js", "no-cache"),
        ("/favicon.ico", "max-age=86400"),
        ("/v1/rooms", "no-store"),
        ("/v1/rooms/r/history", "no-store"),
        ("/v1/nothing", "no-store"),
        ("/v1/rooms/a%20b", "no-store"),
    ] {
        let answer = get(node.address, path);
        assert_eq!(answer.header("cache-control"), Some(caching), "{path}");
    }
}
