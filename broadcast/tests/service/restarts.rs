//! The frames of a publisher do not depend on when it was started.

use std::collections::BTreeMap;

use emostream_broadcast::Config;
use emostream_log::testing::{header, now_ms, until};
use emostream_log::{Log, NewRecord};
use emostream_model::{Emoji, FinalsFrom, RESETS_HEADER, ResultOrder, Topics, Unwritten};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    clients::{Subscriber, Ws, get},
    counting::{WINDOW_MS, keyed, nothing_written, progress, timed},
    fixture::{Fixture, KEPT, Node, PARTITIONS, config},
};

const ROOMS: [&str; 3] = ["a", "b", "c"];
const EMOJIS: [&str; 4] = ["🔥", "👏", "😂", "👍"];

/// The number of a window, and the totals of the room as of this window.
type Totals = (u64, BTreeMap<Emoji, u64>);

fn history(node: &Node, room: &str) -> Vec<Value> {
    let mut history = get(node.address, &format!("/v1/rooms/{room}/history")).json();
    serde_json::from_value(history["finals"].take()).unwrap()
}

/// Starts a publisher, and returns the total that it reports for the room.
fn total(fixture: &Fixture, room: &str) -> Option<u64> {
    let node = fixture.publisher();
    get(node.address, &format!("/v1/rooms/{room}")).json()["total"].as_u64()
}

#[test]
fn totals_do_not_go_back_when_their_topic_has_got_more_partitions() {
    // The publisher reads partitions one after another, so both orders are tested: the older record may be read first
    // or last.
    for newer in [0, PARTITIONS - 1] {
        let mut fixture = Fixture::new();
        let older = PARTITIONS - 1 - newer;
        let long_ago = now_ms() - KEPT.as_millis() as u64 / 2;
        for (nth, count, partition) in [(1, 560, older), (2, 240, newer)] {
            let (_, totals) = fixture.counting.records(nth, "r", &[("🔥", count)]);
            let record = NewRecord {
                partition: Some(partition),
                ..timed(totals, long_ago)
            };
            fixture.counting.commit(vec![record]);
        }
        assert_eq!(
            total(&fixture, "r"),
            Some(800),
            "the newer in partition {newer}"
        );
    }
}

/// An earlier version of the publisher lost all totals of a room if a dataflow of another build had counted an emoji
/// that the publisher did not know.
#[test]
fn an_unknown_emoji_does_not_affect_other_totals() {
    let mut fixture = Fixture::new();
    let long_ago = now_ms() - KEPT.as_millis() as u64 / 2;
    let (_, totals) = fixture
        .counting
        .records(1, "r", &[("🔥", 560), ("👏", 240)]);
    let json = std::str::from_utf8(&totals.value).unwrap();
    let value = json.replace("👏", "新").into();
    let record = NewRecord { value, ..totals };
    fixture.counting.commit(vec![timed(record, long_ago)]);
    assert_eq!(total(&fixture, "r"), Some(560));
}

#[test]
fn finals_of_a_room_that_moved_to_another_partition_are_all_in_its_totals() {
    for (first, second) in [(0, PARTITIONS - 1), (PARTITIONS - 1, 0)] {
        let mut fixture = Fixture::new();
        for nth in 1..=40 {
            let partition = Some(if nth <= 30 { first } else { second });
            let (of_window, of_totals) = fixture.counting.records(nth, "r", &[("🔥", 1)]);
            let records = [of_window, of_totals];
            let moved = records.map(|record| NewRecord {
                partition,
                ..record
            });
            fixture.counting.commit(moved.into());
        }
        assert_eq!(total(&fixture, "r"), Some(40), "from {first} to {second}");
    }
}

#[test]
fn after_a_backward_reset_the_later_results_are_restored_although_their_windows_are_earlier() {
    let mut fixture = Fixture::new();
    fixture.counting.close(1800, &[("r", &[("🔥", 5)])]);
    let header = header(RESETS_HEADER, "1");
    let (of_window, of_totals) = fixture.counting.records(9, "r", &[("🔥", 2)]);
    let after = [of_window, of_totals].map(|record| NewRecord {
        headers: vec![header.clone()],
        ..record
    });
    fixture.counting.commit(after.into());
    let node = fixture.publisher();
    let state = get(node.address, "/v1/rooms/r").json();
    assert_eq!(state["total"], 7, "{state}");
    assert_eq!(state["final"]["start"], 9 * 2000, "{state}");
    let finals = history(&node, "r");
    let totals: Vec<_> = finals
        .iter()
        .map(|f| f["totals"][0]["count"].as_u64())
        .collect();
    assert_eq!(totals, [Some(5), Some(7)]);
}

/// Generates the counts of some rooms in one window.
fn window() -> impl Strategy<Value = BTreeMap<usize, BTreeMap<usize, u64>>> {
    let counts = proptest::collection::btree_map(0..EMOJIS.len(), 1_u64..5000, 1..3);
    proptest::collection::btree_map(0..ROOMS.len(), counts, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_restarted_publisher_makes_byte_identical_finals(
        windows in proptest::collection::vec(window(), 1..24),
        old in any::<prop::sample::Index>(), restart in any::<prop::sample::Index>(),
    ) {
        // Windows before `old` are older than the ring. A second publisher starts at the window `restart`.
        let (old, restart) = (old.index(windows.len()), restart.index(windows.len()));
        let mut fixture = Fixture::new();
        let old_ms = now_ms() - KEPT.as_millis() as u64 / 2;
        let mut expected: BTreeMap<&str, Vec<Totals>> = BTreeMap::new();
        let mut first: Option<Node> = None;
        let mut second: Option<Node> = None;
        for (nth, window) in (0_u64..).zip(&windows) {
            if nth == old as u64 { first = Some(fixture.publisher()); }
            if nth == restart.max(old) as u64 { second = Some(fixture.publisher()); }
            let counts: Vec<(&str, Vec<(&str, u64)>)> = window.iter().map(|(room, counts)| {
                (ROOMS[*room], counts.iter().map(|(e, n)| (EMOJIS[*e], *n)).collect())
            }).collect();
            let rooms: Vec<(&str, &[(&str, u64)])> = counts.iter().map(|(r, c)| (*r, c.as_slice())).collect();
            if rooms.is_empty() { continue; }
            let written_ms = if nth < old as u64 { old_ms + nth } else { now_ms() };
            fixture.counting.close_at(written_ms, nth, &rooms);
            for (room, _) in &rooms {
                if nth >= old as u64 {
                    expected.entry(room).or_default().push((nth, fixture.counting.total(room)));
                }
            }
        }
        let third = fixture.publisher();
        for room in ROOMS {
            let expected = expected.remove(room).unwrap_or_default();
            let nodes = [first.as_ref().unwrap(), second.as_ref().unwrap(), &third];
            for node in nodes {
                until("read", || history(node, room).len() == expected.len());
            }
            let finals = history(nodes[0], room);
            for (final_, (nth, totals)) in finals.iter().zip(&expected) {
                prop_assert_eq!(final_["start"].as_u64(), Some(nth * 2000));
                let shown: BTreeMap<Emoji, u64> = final_["totals"].as_array().unwrap().iter()
                    .map(|c| (serde_json::from_value(c["emoji"].clone()).unwrap(), c["count"].as_u64().unwrap()))
                    .collect();
                prop_assert_eq!(&shown, totals);
            }
            for other in &nodes[1..] {
                let path = format!("/v1/rooms/{room}/history");
                prop_assert_eq!(&get(nodes[0].address, &path).body, &get(other.address, &path).body);
            }
        }
    }
}

/// A dataflow that writes the totals of some rooms later than their finals, as the real one does for rooms with many
/// emojis.
#[derive(Default)]
struct Late {
    /// For each window: the offsets at which its finals and those of later windows begin.
    ends: Vec<FinalsFrom>,
    /// The first and the last window of each room that are not in a totals record yet.
    unwritten: BTreeMap<usize, (u64, u64)>,
    before: Option<ResultOrder>,
}

impl Late {
    /// Closes the `nth` window at `written_ms`, and writes the totals of the rooms in `written`. If `begins`, the
    /// totals of the window's rooms begin at 0 with it.
    fn close(
        &mut self,
        fixture: &mut Fixture,
        (nth, written_ms): (u64, u64),
        (begins, window): (bool, &BTreeMap<usize, BTreeMap<usize, u64>>),
        written: &[usize],
    ) {
        let order = |nth: u64| ResultOrder {
            resets: 0,
            start_ms: nth * WINDOW_MS,
        };
        let topics = Topics::default();
        let kept = fixture.log.offsets(&topics.windows()).unwrap();
        self.ends.push(FinalsFrom {
            since: order(nth),
            offsets: (0..).zip(kept.into_iter().map(|kept| kept.end)).collect(),
        });
        let mut records = Vec::new();
        for (room, counts) in window {
            let counts: Vec<(&str, u64)> = counts.iter().map(|(e, n)| (EMOJIS[*e], *n)).collect();
            let (of_window, _) = match begins {
                true => fixture.counting.beginning(nth, ROOMS[*room], &counts),
                false => fixture.counting.records(nth, ROOMS[*room], &counts),
            };
            records.push(of_window);
            self.unwritten.entry(*room).or_insert((nth, nth)).1 = nth;
        }
        for room in written {
            if let Some((_, last)) = self.unwritten.remove(room) {
                records.push(fixture.counting.totals_as_of(last, ROOMS[*room]));
            }
        }
        let now = self
            .unwritten
            .values()
            .map(|(first, _)| order(*first))
            .min();
        let since = self.before.into_iter().chain(now).min();
        self.before = now;
        let ends = |since| self.ends.iter().rfind(|ends| ends.since <= since);
        let unwritten = Unwritten {
            since,
            finals: since.and_then(ends).cloned(),
        };
        records.push(progress(&unwritten));
        let timed = records.into_iter().map(|record| timed(record, written_ms));
        fixture.counting.commit(timed.collect());
    }
}

#[test]
fn an_unknown_emoji_in_finals_does_not_affect_other_totals() {
    let mut fixture = Fixture::new();
    let (of_window, _) = fixture
        .counting
        .records(1, "r", &[("🔥", 560), ("👏", 240)]);
    let json = std::str::from_utf8(&of_window.value).unwrap();
    let value = json.replace("👏", "新").into();
    let record = NewRecord { value, ..of_window };
    let before_the_ring = now_ms() - KEPT.as_millis() as u64 / 2;
    let records = [record, nothing_written()].map(|record| timed(record, before_the_ring));
    fixture.counting.commit(records.into());
    assert_eq!(total(&fixture, "r"), Some(560));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_restarted_publisher_completes_totals_that_are_written_later(
        windows in proptest::collection::vec(
            (proptest::bool::weighted(0.15), window(), proptest::collection::vec(0..ROOMS.len(), 0..2)), 1..24),
        old in any::<prop::sample::Index>(), restart in any::<prop::sample::Index>(),
    ) {
        // Windows before `old` are older than the ring. A second publisher starts at the window `restart`.
        let (old, restart) = (old.index(windows.len()), restart.index(windows.len()));
        let mut fixture = Fixture::new();
        let old_ms = now_ms() - KEPT.as_millis() as u64 / 2;
        let mut late = Late::default();
        let mut nodes: Vec<Node> = Vec::new();
        let mut expected: BTreeMap<usize, Vec<Totals>> = BTreeMap::new();
        // The last window of each room with which its totals begin. If that window is in the ring, a publisher that
        // starts later does not know the totals of earlier finals.
        let mut began: BTreeMap<usize, u64> = BTreeMap::new();
        for (nth, (begins, window, written)) in (0_u64..).zip(&windows) {
            if nth == old as u64 || nth == restart.max(old) as u64 {
                nodes.push(fixture.publisher());
            }
            let written_ms = if nth < old as u64 { old_ms + nth } else { now_ms() };
            late.close(&mut fixture, (nth, written_ms), (*begins, window), written);
            began.extend(window.keys().filter(|_| *begins).map(|room| (*room, nth)));
            for room in window.keys().filter(|_| nth >= old as u64) {
                expected.entry(*room).or_default().push((nth, fixture.counting.total(ROOMS[*room])));
            }
        }
        nodes.push(fixture.publisher());
        for (number, room) in ROOMS.into_iter().enumerate() {
            let expected = expected.remove(&number).unwrap_or_default();
            for (which, node) in nodes.iter().enumerate() {
                until("read", || history(node, room).len() == expected.len());
                let finals = history(node, room);
                for (final_, (nth, totals)) in finals.iter().zip(&expected) {
                    prop_assert_eq!(final_["start"].as_u64(), Some(nth * WINDOW_MS));
                    if which > 0 && began.get(&number).is_some_and(|began| nth < began) {
                        continue;
                    }
                    let shown: BTreeMap<Emoji, u64> = final_["totals"].as_array().unwrap().iter()
                        .map(|c| (serde_json::from_value(c["emoji"].clone()).unwrap(), c["count"].as_u64().unwrap()))
                        .collect();
                    prop_assert_eq!(&shown, totals);
                }
                let state = get(node.address, &format!("/v1/rooms/{room}")).json();
                let total: u64 = fixture.counting.total(room).values().sum();
                prop_assert_eq!(state["total"].as_u64(), Some(total));
            }
        }
    }
}

/// Kafka makes the partitions of a transaction visible one after another, since each has its own commit marker.
#[test]
fn totals_that_are_seen_before_their_final_are_not_doubled() {
    let mut fixture = Fixture::new();
    fixture.counting.close(1, &[("r", &[("🔥", 3)])]);
    let (of_window, of_totals) = fixture.counting.records(2, "r", &[("🔥", 5)]);
    fixture.counting.commit(vec![of_totals]);
    let log = fixture.log.clone();
    let starting = std::thread::spawn(move || Node::start(log, config()));
    // After so many polls without a result, a publisher that does not wait for the final would be ready.
    let looks = 4 * PARTITIONS as usize;
    until("looked for more", || fixture.log.empty_polls() >= looks);
    fixture.counting.commit(vec![of_window]);
    let node = starting.join().unwrap();
    until("read", || history(&node, "r").len() == 2);
    let totals: Vec<u64> = history(&node, "r")
        .iter()
        .map(|f| f["totals"][0]["count"].as_u64().unwrap())
        .collect();
    assert_eq!(totals, [3, 8]);
}

#[test]
fn a_room_that_is_quiet_for_longer_than_the_ring_keeps_its_totals() {
    let mut fixture = Fixture::new();
    let old_ms = now_ms() - KEPT.as_millis() as u64 / 2;
    fixture.counting.close_at(old_ms, 1, &[("r", &[("🔥", 7)])]);
    let node = fixture.publisher();
    let state = get(node.address, "/v1/rooms/r").json();
    assert_eq!(
        (&state["final"], &state["total"]),
        (&Value::Null, &7.into())
    );
    let mut ws = Ws::join(node.address, "r", "");
    fixture.counting.close(900, &[("r", &[("🔥", 1)])]);
    assert_eq!(ws.finals(1)[0].json["totals"][0]["count"], 8);
}

#[test]
fn an_open_window_is_shown_by_a_publisher_that_starts_in_it() {
    let fixture = Fixture::new();
    let nth = now_ms() / 2000;
    fixture.counting.live(nth, "r", &[("🔥", 7)]);
    let node = fixture.publisher();
    assert_eq!(
        Ws::join(node.address, "r", "").brief(2),
        ["hello false", "live 7"]
    );
}

#[test]
fn open_windows_of_a_run_with_another_size_are_not_shown() {
    let fixture = Fixture::new();
    let now_ms = now_ms();
    fixture.counting.live_of(now_ms, 2000, "r");
    let of_3_s = Config {
        window_ms: 3000,
        ..config()
    };
    let node = Node::start(fixture.log.clone(), of_3_s);
    let live = |room: &str| get(node.address, &format!("/v1/rooms/{room}")).json()["live"].take();
    // The live tallies of room `s` are written after the live tally of room `r`, to the same partition. Once the
    // publisher has read them, it has read the tally of room `r`, too.
    for start_ms in [now_ms, now_ms + 3000] {
        let start_ms = start_ms - start_ms % 3000;
        fixture.counting.live_of(start_ms, 3000, "s");
        until("read", || live("s")["start"] == start_ms);
    }
    assert_eq!(live("r"), Value::Null);
    fixture.counting.live_of(now_ms, 3000, "r");
    until("shown", || !live("r").is_null());
}

#[test]
fn hello_has_the_settings_of_a_restarted_dataflow() {
    let fixture = Fixture::new();
    let node = fixture.publisher();
    fixture.counting.live_of(now_ms(), 3000, "r");
    let state = || get(node.address, "/v1/rooms/r").json();
    until("read", || !state()["live"].is_null());
    let hello = Ws::join(node.address, "s", "").next().json;
    assert_eq!(
        (&hello["window_ms"], &hello["swarm_size"]),
        (&3000.into(), &1000.into())
    );
}

#[test]
fn corrupt_records_do_not_prevent_a_start() {
    let mut fixture = Fixture::new();
    let topics = Topics::default();
    for topic in [topics.windows(), topics.totals(), topics.live()] {
        fixture.counting.append(keyed(topic, "r", &"junk"));
    }
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    let node = fixture.publisher();
    assert_eq!(history(&node, "r").len(), 1);
}
