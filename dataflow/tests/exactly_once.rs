//! Tests of the whole dataflow over a log in memory: for any number of workers, and any number of restarts, each
//! reaction is counted once or rejected once.
//!
//! The events of a test follow from a seed. A failure prints the seed, and `SEED=… cargo test` replays the test.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[path = "exactly_once/faults.rs"]
mod faults;
mod fixture;
#[path = "exactly_once/floods.rs"]
mod floods;
#[path = "exactly_once/reset.rs"]
mod reset;
#[path = "exactly_once/retention.rs"]
mod retention;
#[path = "exactly_once/set_back.rs"]
mod set_back;
#[path = "exactly_once/standby.rs"]
mod standby;
#[path = "exactly_once/totals.rs"]
mod totals;
#[path = "exactly_once/trending.rs"]
mod trending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use emostream_dataflow::{Activity, Config, Ready, Stop, StreamsError};
use emostream_log::{
    NewRecord, read_to_end,
    testing::{DEADLINE, FaultyLog, rng, until},
};
use emostream_model::{
    Batch, Emoji, Reaction, ReactionRef, Room, TotalsRecord, UserId, WindowRecord,
};
use fixture::{Fixture, T0, run_with};
use rand::{Rng, RngExt};

const LATENESS_MS: u64 = 750;
/// The length of the sliding span of trending emojis: three windows, so that many windows leave the span.
const SPAN_MS: u64 = 6000;
/// Maximum number of trending emojis in a record. There are more emojis, so some are not in the top.
const TOP: usize = 2;
/// The text of an emoji that this build does not know.
const UNKNOWN_EMOJI: &str = "新";

impl Fixture {
    fn config(&self, workers: usize) -> Config {
        let config = fixture::config(&self.topics, workers);
        Config {
            swarm_size: 3,
            trending_span: Duration::from_millis(SPAN_MS),
            trending_top: TOP,
            ..run_with(config, |run| run.lateness_ms = LATENESS_MS)
        }
    }

    /// Returns the same fixture with faults added to its log.
    fn faulty(&self, faults: impl FnOnce(FaultyLog) -> FaultyLog) -> Fixture {
        Fixture {
            log: Arc::new(faults(FaultyLog::new(self.log.clone()))),
            ..self.clone()
        }
    }

    fn start(&self, config: Config) -> (Stop, thread::JoinHandle<Result<(), StreamsError>>) {
        self.launch(config, prometheus::Registry::new(), Arc::new(|_| {}))
    }

    /// Runs the dataflow until `enough` returns `true`, and then stops the run.
    fn run_until(&self, config: Config, mut enough: impl FnMut() -> bool) {
        let (stop, running) = self.start(config);
        until("the run meets the condition or ends", || {
            enough() || running.is_finished()
        });
        stop.request();
        running.join().unwrap().unwrap();
    }

    /// Waits until all windows that end at `until_ms` or before are final.
    fn until_final(&self, until_ms: u64) {
        until("all windows are final", || {
            self.final_until_ms() >= until_ms
        });
    }

    /// Returns the end offset of the progress topic, which grows with each commit, even if the topic is compacted.
    fn commits(&self) -> u64 {
        let progress = self.topics.progress();
        self.log.offsets(&progress).unwrap()[0].end
    }

    fn finals(&self) -> Vec<WindowRecord> {
        let values = self.values(&self.topics.windows());
        values
            .iter()
            .map(|value| serde_json::from_slice(value).unwrap())
            .collect()
    }

    fn rejected(&self) -> Vec<(u32, u64, String)> {
        let mut rejected = Vec::new();
        read_to_end(&*self.log, &self.topics.rejected(), &mut |record| {
            let headers = record.headers.read();
            let header = |name| {
                let header = headers.iter().find(|h| h.name == name).unwrap();
                String::from_utf8(header.value.to_vec()).unwrap()
            };
            let at = (
                header("partition").parse().unwrap(),
                header("offset").parse().unwrap(),
            );
            rejected.push((at.0, at.1, header("reason")));
        })
        .unwrap();
        rejected.sort();
        rejected
    }
}

/// Numbers of reactions. The key is the window start, the room and the emoji.
type Counts = BTreeMap<(u64, String, String), u64>;

/// The expected output, computed event by event from the log of each partition alone.
#[derive(Default)]
struct Oracle {
    counts: Counts,
    late: BTreeSet<(u32, u64)>,
    late_reactions: reset::Sums,
    /// The partition, offset and window start of the reactions with an unknown emoji that are not late. All reactions
    /// of an entry must be in one rejected record.
    unknown: BTreeSet<(u32, u64, u64)>,
    unknown_reactions: reset::Sums,
    newest: BTreeMap<u32, u64>,
}

impl Oracle {
    fn append(
        &mut self,
        partition: u32,
        offset: u64,
        newest_ms: u64,
        reactions: &[ReactionRef<'_>],
    ) {
        let seen = self.newest.entry(partition).or_default();
        let watermark = seen.saturating_sub(LATENESS_MS);
        for reaction in reactions {
            let start = reaction.at_ms / 2000 * 2000;
            let (room, emoji) = (reaction.room.to_owned(), reaction.emoji.to_owned());
            if start + 2000 <= watermark {
                self.late.insert((partition, offset));
                *self.late_reactions.entry((room, emoji)).or_default() += 1;
            } else if emoji == UNKNOWN_EMOJI {
                self.unknown.insert((partition, offset, start));
                *self.unknown_reactions.entry((room, emoji)).or_default() += 1;
            } else {
                *self.counts.entry((start, room, emoji)).or_default() += 1;
            }
        }
        *seen = (*seen).max(newest_ms);
    }
}

/// Returns random records with events of about `span_ms`, and the expected output. The records are batches, plain JSON,
/// and records that are not reactions. Some events are late, and some have an unknown emoji.
fn events(fixture: &Fixture, rng: &mut impl Rng, span_ms: u64) -> (Vec<NewRecord>, Oracle) {
    let emojis = ["🔥", "👏", "😂", UNKNOWN_EMOJI];
    let mut oracle = Oracle::default();
    let mut records = Vec::new();
    for partition in 0..fixture.partitions {
        let (mut now_ms, mut offset) = (T0 + rng.random_range(0..400), 0);
        while now_ms < T0 + span_ms {
            now_ms += rng.random_range(0..400);
            let straggles = rng.random_bool(0.1);
            let base_ms = now_ms
                - if straggles {
                    rng.random_range(0..6000)
                } else {
                    0
                };
            let reaction = |rng: &mut dyn Rng, at_ms| ReactionRef {
                user: "u",
                emoji: emojis[rng.random_range(0..emojis.len())],
                room: ["a", "b", "c"][rng.random_range(0..3)],
                at_ms,
            };
            let count = rng.random_range(0..5);
            let reactions: Vec<ReactionRef<'_>> = (0..count)
                .map(|_| {
                    let at = base_ms + rng.random_range(0..500);
                    reaction(rng, at)
                })
                .collect();
            let newest_ms = reactions
                .iter()
                .map(|r| r.at_ms)
                .max()
                .unwrap_or(base_ms)
                .max(base_ms);
            let (time_ms, value) = match rng.random_range(0..10) {
                0 => (now_ms, b"no reaction".to_vec()),
                1 | 2 => {
                    let plain = reaction(rng, base_ms);
                    oracle.append(partition, offset, base_ms, std::slice::from_ref(&plain));
                    let json = serde_json::json!({
                        "user_id": "u", "emoji_type": plain.emoji, "room": plain.room,
                    });
                    (base_ms, json.to_string().into_bytes())
                }
                _ => {
                    oracle.append(partition, offset, newest_ms, &reactions);
                    (now_ms.max(newest_ms), Batch::encode(base_ms, reactions))
                }
            };
            if value == b"no reaction" {
                oracle.append(partition, offset, now_ms, &[]);
            }
            records.push(fixture.reaction_record(partition, time_ms, value));
            offset += 1;
        }
    }
    (records, oracle)
}

/// Returns the final-until time at which all windows of [`events`] are final. The last events are in the window that
/// begins at the end of the span, so this time is the end of that window. A test must not wait for an earlier time, at
/// which the last windows may not be final yet.
fn all_final_ms(span_ms: u64) -> u64 {
    T0 + span_ms + 2000
}

/// Returns heartbeats that close every window of [`events`].
fn closing(fixture: &Fixture, span_ms: u64) -> Vec<NewRecord> {
    let at_ms = T0 + span_ms + 10_000;
    let heartbeat = |p| fixture.reaction_record(p, at_ms, Batch::heartbeat(at_ms));
    (0..fixture.partitions).map(heartbeat).collect()
}

fn check(fixture: &Fixture, oracle: &Oracle) {
    let mut counts = Counts::new();
    let mut seen = BTreeSet::new();
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for record in fixture.finals() {
        let (room, start) = (record.room.to_string(), record.window.start);
        assert_eq!((start % 2000, record.window.end), (0, start + 2000));
        assert!(
            seen.insert((room.clone(), start)),
            "{room} {start} is final twice"
        );
        assert_eq!(
            record.total,
            record.counts.iter().map(|t| t.count).sum::<u64>()
        );
        *totals.entry(room.clone()).or_default() += record.total;
        for tally in record.counts {
            assert_eq!(
                (tally.swarms, tally.loose),
                (tally.count / 3, tally.count % 3)
            );
            counts.insert((start, room.clone(), tally.emoji.to_string()), tally.count);
        }
    }
    assert_eq!(counts, oracle.counts);
    let places = |of: &str| -> Vec<(u32, u64)> {
        let rejected = fixture.rejected().into_iter();
        let of = rejected.filter(|(_, _, reason)| reason == of);
        of.map(|(partition, offset, _)| (partition, offset))
            .collect()
    };
    // A batch that is late for several windows may be rejected in several parts, which have the same offset.
    let mut late = places("late");
    late.dedup();
    assert_eq!(late, oracle.late.iter().copied().collect::<Vec<_>>());
    let unknown = oracle.unknown.iter();
    let unknown: Vec<_> = unknown.map(|(p, offset, _)| (*p, *offset)).collect();
    assert_eq!(places("unknown_emoji"), unknown);
    for (reason, expected) in [
        ("late", &oracle.late_reactions),
        ("unknown_emoji", &oracle.unknown_reactions),
    ] {
        let rejected = fixture.reactions_in(&fixture.topics.rejected(), Some(reason));
        assert_eq!(rejected, *expected, "{reason}");
    }
    let mut known = BTreeMap::new();
    for value in fixture.values(&fixture.topics.totals()) {
        let record: TotalsRecord = serde_json::from_slice(&value).unwrap();
        assert_eq!(
            record.total,
            record.counts.entries().map(|(_, count)| count).sum::<u64>()
        );
        known.insert(record.room.to_string(), record.total);
    }
    assert_eq!(known, totals);
    trending::check(fixture, oracle);
}

fn seeds() -> impl Iterator<Item = u64> {
    emostream_log::testing::seeds(12)
}

#[test]
fn stops_and_restarts_with_other_workers_change_no_final() {
    for seed in seeds() {
        let mut rng = rng(seed);
        let fixture = Fixture::new(rng.random_range(1..5));
        let span_ms = 40_000;
        let (records, oracle) = events(&fixture, &mut rng, span_ms);
        // Some records are appended before the first run, and the others before a later run.
        let (before, after) = records.split_at(rng.random_range(0..records.len()));
        fixture.append(before.to_vec());
        let mut after = after.to_vec();
        after.extend(closing(&fixture, span_ms));
        let end_ms = all_final_ms(span_ms);
        let mut appended = false;
        for _ in 0..rng.random_range(0..6) {
            let commits = fixture.commits();
            let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..60));
            if !appended && rng.random_bool(0.5) {
                fixture.append(std::mem::take(&mut after));
                appended = true;
            }
            fixture.run_until(fixture.config(rng.random_range(1..5)), || {
                fixture.commits() > commits || Instant::now() > deadline
            });
        }
        fixture.append(after);
        fixture.run_until(fixture.config(rng.random_range(1..4)), || {
            fixture.final_until_ms() >= end_ms
        });
        check(&fixture, &oracle);
    }
}

#[test]
fn any_number_of_workers_writes_the_same_bytes() {
    let finals = |workers| {
        let fixture = Fixture::new(3);
        let (records, _) = events(&fixture, &mut rng(7), 30_000);
        fixture.append(records);
        fixture.append(closing(&fixture, 30_000));
        fixture.run_until(fixture.config(workers), || {
            fixture.final_until_ms() >= all_final_ms(30_000)
        });
        let mut values = fixture.values(&fixture.topics.windows());
        values.sort();
        values
    };
    let one = finals(1);
    assert!(!one.is_empty());
    assert_eq!(one, finals(2));
    assert_eq!(one, finals(5));
}

fn reaction(at_ms: u64) -> Reaction {
    Reaction {
        user: UserId::new("u").unwrap(),
        emoji: Emoji::from_text("🔥").unwrap(),
        room: Room::default(),
        at_ms,
    }
}

#[test]
fn a_restart_judges_lateness_by_the_watermark_that_was() {
    let fixture = Fixture::new(2);
    let at = |partition, time_ms: u64| {
        let value = Batch::encode(T0 + time_ms, [&reaction(T0 + time_ms)]);
        fixture.reaction_record(partition, T0 + time_ms, value)
    };
    // The event at 9 s is late because of the heartbeat before it. Partition 1 keeps all windows from 4 s on open, so
    // the restart reads partition 0 again from the event at 10.1 s on. This event is after the heartbeat, and the event
    // at 9 s must still be late.
    fixture.append(vec![
        fixture.reaction_record(0, T0 + 10_750, Batch::heartbeat(T0 + 10_750)),
        at(0, 10_100),
        at(0, 9_000),
        at(1, 2_500),
        fixture.reaction_record(1, T0 + 4_750, Batch::heartbeat(T0 + 4_750)),
    ]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 1);
    let progress = fixture.progress().unwrap();
    assert_eq!(progress.final_until_ms, T0 + 4_000);
    assert_eq!(progress.partitions[0].resume_offset, 1);
    fixture.append(closing(&fixture, 12_000));
    fixture.run_until(fixture.config(1), || {
        fixture.final_until_ms() >= T0 + 12_000
    });
    let starts: Vec<u64> = fixture
        .finals()
        .iter()
        .map(|f| f.window.start - T0)
        .collect();
    assert_eq!(starts, [2_000, 10_000]);
    assert_eq!(fixture.rejected(), [(0, 2, "late".to_owned())]);
}

#[test]
fn a_record_of_the_maximum_size_is_rejected_and_the_others_are_counted() {
    let fixture = Fixture::new(1);
    let topic_bytes = fixture.topics.reactions().len();
    fixture.append(vec![
        fixture.reaction_record(0, T0, vec![b'x'; (1 << 20) - topic_bytes]),
        fixture.reaction_record(0, T0, Batch::encode(T0, [&reaction(T0)])),
    ]);
    fixture.append(closing(&fixture, 2_000));
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 1);
    assert_eq!(fixture.rejected(), [(0, 0, "malformed".to_owned())]);
}

/// An earlier version lost the totals of a room if another build had counted an emoji that the version did not know.
#[test]
fn totals_keep_emojis_that_this_build_does_not_know() {
    let fixture = Fixture::new(1);
    let totals = r#"{"room":"default","start":0,"end":2000,"total":8,"counts":[{"emoji":"新","count":5},{"emoji":"🔥","count":2},{"emoji":"\"","count":1}]}"#;
    fixture.append(vec![NewRecord {
        topic: fixture.topics.totals(),
        partition: None,
        key: Some("default".into()),
        ..fixture.reaction_record(0, T0, totals.into())
    }]);
    let batch =
        |at: u64| fixture.reaction_record(0, T0 + at, Batch::encode(T0 + at, [&reaction(T0 + at)]));
    fixture.append([0, 1, 2, 2000, 4000].map(batch).into());
    fixture.append(closing(&fixture, 4000));
    let newest =
        || String::from_utf8(fixture.values(&fixture.topics.totals()).pop().unwrap()).unwrap();
    let expected = |start_ms: u64, total: u64, counts: &str| {
        let (start, end) = (T0 + start_ms, T0 + start_ms + 2000);
        format!(
            r#"{{"room":"default","start":{start},"end":{end},"total":{total},"counts":[{counts}]}}"#
        )
    };
    fixture.run_until(fixture.config(3), || fixture.final_until_ms() >= T0 + 6000);
    let counts = |fire| {
        format!(
            r#"{{"emoji":"🔥","count":{fire}}},{{"emoji":"新","count":5}},{{"emoji":"\"","count":1}}"#
        )
    };
    assert_eq!(newest(), expected(4000, 13, &counts(7)));
    // The next run restores these counts from the record that this build wrote.
    fixture.append(vec![batch(16_000)]);
    fixture.append(closing(&fixture, 18_000));
    fixture.run_until(fixture.config(2), || {
        fixture.final_until_ms() >= T0 + 18_000
    });
    assert_eq!(newest(), expected(16_000, 14, &counts(8)));
}

#[test]
fn a_partition_without_records_holds_no_window_open_after_the_idle_timeout() {
    let fixture = Fixture::new(2);
    fixture.append(vec![
        fixture.reaction_record(0, T0, Batch::encode(T0, [&reaction(T0)])),
        fixture.reaction_record(
            0,
            T0 + 5000,
            Batch::encode(T0 + 5000, [&reaction(T0 + 5000)]),
        ),
    ]);
    let config = run_with(fixture.config(2), |run| {
        run.idle_timeout = Duration::from_millis(300);
    });
    // When every partition is idle, even the last window closes.
    fixture.run_until(config, || fixture.finals().len() == 2);
    assert_eq!(fixture.final_until_ms(), T0 + 6000);
    // Events of a closed window that arrive later are rejected once.
    let late = |p| {
        fixture.reaction_record(
            p,
            T0 + 5100,
            Batch::encode(T0 + 5100, [&reaction(T0 + 5100)]),
        )
    };
    fixture.append(vec![late(0), late(1)]);
    fixture.append(closing(&fixture, 6000));
    fixture.run_until(fixture.config(1), || fixture.rejected().len() == 2);
    fixture.run_until(fixture.config(3), || true);
    assert_eq!(
        fixture.rejected(),
        [(0, 2, "late".to_owned()), (1, 0, "late".to_owned())]
    );
    assert_eq!(fixture.finals().len(), 2);
}

#[test]
fn progress_of_other_settings_is_refused_with_the_difference_named() {
    let fixture = Fixture::new(1);
    let (records, _) = events(&fixture, &mut rng(1), 5_000);
    fixture.append(records);
    fixture.append(closing(&fixture, 5_000));
    fixture.run_until(fixture.config(1), || fixture.final_until_ms() > T0);
    let config = run_with(fixture.config(1), |run| run.lateness_ms = 1000);
    let error = fixture.start(config).1.join().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(
        error
            .to_string()
            .contains("--lateness (ms) was 750 and is now 1000"),
        "{error}"
    );
}

#[test]
fn a_newer_run_fences_the_older_one_which_stands_by() {
    let fixture = Fixture::new(1);
    let (report, reports) = channel();
    let ready: Ready = Arc::new(move |state| drop(report.send(state)));
    let (stop, older) = fixture.launch(fixture.config(1), prometheus::Registry::new(), ready);
    let (records, oracle) = events(&fixture, &mut rng(2), 20_000);
    let half = records.len() / 2;
    fixture.append(records[..half].to_vec());
    let newer = {
        fixture.until_final(1);
        let (begin, begun) = channel();
        let ready: Ready = Arc::new(move |state| {
            if state.is_ok() {
                // The send fails for all reports after the first one, since the receiver is dropped then.
                let _ = begin.send(());
            }
        });
        let newer = fixture.launch(fixture.config(2), prometheus::Registry::new(), ready);
        // Once the newer run is active, the older run is fenced. It detects this at its next commit.
        begun.recv_timeout(DEADLINE).unwrap();
        newer
    };
    fixture.append(records[half..].to_vec());
    fixture.append(closing(&fixture, 20_000));
    let standby = |state: &Result<Activity, String>| matches!(state, Ok(Activity::Standby(_)));
    while !standby(&reports.recv_timeout(DEADLINE).unwrap()) {}
    stop.request();
    older.join().unwrap().unwrap();
    fixture.until_final(all_final_ms(20_000));
    newer.0.request();
    newer.1.join().unwrap().unwrap();
    check(&fixture, &oracle);
}
