//! Tests of trending records, which are compared with sums that are computed from the counts of each window. After any
//! number of restarts, the topic contains the same records as after an uninterrupted run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use emostream_dataflow::Config;
use emostream_log::NewRecord;
use emostream_model::{Batch, Trending};
use rand::RngExt;

use crate::{Counts, Fixture, Oracle, SPAN_MS, T0, TOP, closing, events, rng, seeds};

/// Names and their counts, the greatest count first.
type Top = Vec<(String, u64)>;

/// A trending record: the start of its window, the top emojis, and the top rooms, which only the record of all rooms
/// has.
type Shown = (u64, Top, Top);

impl Fixture {
    /// Returns the trending records with this span, by key, in the order of the topic.
    fn trending(&self, span: u64) -> BTreeMap<String, Vec<Shown>> {
        let mut shown: BTreeMap<String, Vec<Shown>> = BTreeMap::new();
        for value in self.values(&self.topics.trending()) {
            let record: Trending = serde_json::from_slice(&value).unwrap();
            let key = record.key().to_owned();
            let (window, span_ms, top, rooms) = match record {
                Trending::Room(r) => (r.window, r.span_ms, r.top, Vec::new()),
                Trending::All(r) => (r.window, r.span_ms, r.top, r.rooms),
            };
            assert_eq!(window.end, window.start + 2000);
            if span_ms != span {
                continue;
            }
            let top = top.iter().map(|c| (c.emoji.to_string(), c.count));
            let rooms = rooms.iter().map(|r| (r.room.to_string(), r.count));
            let shows = (window.start, top.collect(), rooms.collect());
            shown.entry(key).or_default().push(shows);
        }
        shown
    }
}

fn top(sums: &BTreeMap<String, u64>) -> Top {
    let mut top: Top = sums.iter().map(|(n, c)| (n.clone(), *c)).collect();
    top.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
    top.truncate(TOP);
    top
}

/// Returns the expected trending records of each key: one for each final window that changes the top of the key.
fn expected(counts: &Counts, until_ms: u64, span_ms: u64) -> BTreeMap<String, Vec<Shown>> {
    let keys: BTreeSet<String> = counts.keys().map(|(_, room, _)| room.clone()).collect();
    let mut records: BTreeMap<String, Vec<Shown>> = BTreeMap::new();
    let first_ms = counts.keys().next().map_or(until_ms, |(start, ..)| *start);
    for start_ms in (first_ms..until_ms).step_by(2000) {
        for key in keys.iter().map(String::as_str).chain(["*"]) {
            let (mut emojis, mut rooms) = (BTreeMap::new(), BTreeMap::new());
            for ((start, room, emoji), count) in counts {
                let in_span = *start <= start_ms && *start + span_ms > start_ms;
                if in_span && (key == "*" || key == room) {
                    *emojis.entry(emoji.clone()).or_default() += count;
                    *rooms.entry(room.clone()).or_default() += count;
                }
            }
            let rooms = if key == "*" { top(&rooms) } else { Vec::new() };
            let now = (top(&emojis), rooms);
            let known = records.entry(key.to_owned()).or_default();
            let before = known
                .last()
                .map(|(_, top, rooms)| (top.clone(), rooms.clone()));
            if before.unwrap_or_default() != now {
                known.push((start_ms, now.0, now.1));
            }
        }
    }
    records.retain(|_, records| !records.is_empty());
    records
}

/// Checks that the topic contains exactly the trending records that follow from the counts.
pub(crate) fn check(fixture: &Fixture, oracle: &Oracle) {
    let expected = expected(&oracle.counts, fixture.final_until_ms(), SPAN_MS);
    assert_eq!(fixture.trending(SPAN_MS), expected);
}

/// The counts of all rooms leave the span while no run is active, so the next run must write the changed tops.
#[test]
fn the_next_run_writes_the_changes_of_tops_while_no_run_was_active() {
    for seed in seeds() {
        let mut rng = rng(2000 + seed);
        let fixture = Fixture::new(rng.random_range(1..4));
        let span_ms = rng.random_range(3000..9000);
        let (records, oracle) = events(&fixture, &mut rng, span_ms);
        fixture.append(records);
        // The first run makes every window final. The last windows are still in the span.
        let at_ms = T0 + span_ms + 4000;
        let heartbeat = |p, at_ms| fixture.reaction_record(p, at_ms, Batch::heartbeat(at_ms));
        fixture.append(
            (0..fixture.partitions)
                .map(|p| heartbeat(p, at_ms))
                .collect(),
        );
        fixture.run_until(fixture.config(rng.random_range(1..4)), || {
            fixture.final_until_ms() >= T0 + span_ms
        });
        for later_ms in [2000, 9000, 60_000] {
            let at_ms = at_ms + later_ms;
            fixture.append(
                (0..fixture.partitions)
                    .map(|p| heartbeat(p, at_ms))
                    .collect(),
            );
            // A run may make no commit, since it may have no results to write. So the test cannot wait for a commit,
            // and stops the run after a random time.
            let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..100));
            fixture.run_until(fixture.config(rng.random_range(1..4)), || {
                Instant::now() > deadline
            });
        }
        let gone = |shown: &BTreeMap<String, Vec<Shown>>| {
            shown
                .values()
                .all(|records| records.last().unwrap().1.is_empty())
        };
        fixture.run_until(fixture.config(2), || gone(&fixture.trending(SPAN_MS)));
        check(&fixture, &oracle);
    }
}

#[test]
fn a_run_with_another_span_corrects_what_is_shown_at_once() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(11), 20_000);
    let (before, after) = records.split_at(records.len() * 3 / 4);
    fixture.append(before.to_vec());
    fixture.run_until(fixture.config(1), || fixture.final_until_ms() >= T0 + 8000);
    // The topic has a record of a room without finals, as if the finals had been deleted.
    let ghost =
        r#"{"room":"ghost","start":0,"end":2000,"span_ms":6000,"top":[{"emoji":"🔥","count":5}]}"#;
    fixture.append(vec![NewRecord {
        topic: fixture.topics.trending(),
        key: Some("ghost".into()),
        time_ms: None,
        ..fixture.reaction_record(0, T0, ghost.into())
    }]);
    let from_ms = fixture.final_until_ms();
    fixture.append(after.to_vec());
    fixture.append(closing(&fixture, 20_000));
    let shorter = Config {
        trending_span: Duration::from_millis(2000),
        ..fixture.config(2)
    };
    fixture.run_until(shorter, || fixture.final_until_ms() >= T0 + 28_000);

    let mut shown = fixture.trending(2000);
    shown
        .values_mut()
        .for_each(|of| of.retain(|(at, ..)| *at >= from_ms));
    assert_eq!(shown.remove("ghost"), Some(vec![(from_ms, vec![], vec![])]));
    let mut expected = expected(&oracle.counts, fixture.final_until_ms(), 2000);
    for records in expected.values_mut() {
        let later = records.partition_point(|(at, ..)| *at <= from_ms);
        let (_, top, rooms) = records[..later].last().cloned().unwrap_or_default();
        records.splice(..later, [(from_ms, top, rooms)]);
    }
    assert_eq!(shown, expected);
}
