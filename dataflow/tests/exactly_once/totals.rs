//! Tests of the totals of large rooms, which are written once per period. For any number of workers, and after a
//! restart from any progress, the totals contain each final once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use emostream_dataflow::{Config, ResetFrom, TotalsPace};
use emostream_log::{
    NewRecord,
    embedded::EmbeddedLog,
    read_to_end,
    testing::{KEEP, keep_for},
};
use emostream_model::{
    Batch, RESETS_HEADER, ResultOrder, TotalCounts, TotalsRecord, Unwritten, WindowRecord,
    WindowSize,
};
use rand::{Rng, RngExt};

use crate::{Fixture, T0, all_final_ms, check, closing, events, reaction, rng, run_with, seeds};

/// The period in which the totals of a large room are written once: two windows.
const PERIOD_MS: u64 = 4000;

/// Settings of totals records with which a room is large as soon as it has two emojis.
const PACE: TotalsPace = TotalsPace {
    small_items: 1,
    period_ms: PERIOD_MS,
    close_bytes: usize::MAX,
};

/// Settings of totals records with a period that is longer than a test, so that no totals record of a large room is
/// due.
const SLOW: TotalsPace = TotalsPace {
    period_ms: 3_600_000,
    ..PACE
};

/// Numbers of reactions, by (room, emoji).
type Sums = BTreeMap<(String, String), u64>;

impl Fixture {
    fn config_of(&self, workers: usize, pace: TotalsPace) -> Config {
        Config {
            totals_pace: pace,
            ..self.config(workers)
        }
    }

    /// Returns each record of a topic, with its result order, its partition and its offset.
    fn results<T: serde::de::DeserializeOwned>(
        &self,
        topic: &str,
        window: impl Fn(&T) -> emostream_model::Window,
    ) -> Vec<(ResultOrder, u32, u64, T)> {
        let mut results = Vec::new();
        read_to_end(&*self.log, topic, &mut |record| {
            let headers = record.headers.read();
            let number = headers.iter().find(|header| header.name == RESETS_HEADER);
            let number = number.map_or(0, |header| {
                let text = std::str::from_utf8(&header.value).unwrap();
                text.parse().unwrap()
            });
            let value: T = serde_json::from_slice(record.value).unwrap();
            let order = ResultOrder::new(number, window(&value));
            results.push((order, record.partition, record.offset, value));
        })
        .unwrap();
        results
    }

    fn all_finals(&self) -> Vec<(ResultOrder, u32, u64, WindowRecord)> {
        self.results(&self.topics.windows(), |record: &WindowRecord| {
            record.window
        })
    }

    /// Returns the newest totals record of each room.
    fn newest_totals(&self) -> BTreeMap<String, (ResultOrder, TotalsRecord)> {
        let mut newest: BTreeMap<String, (ResultOrder, TotalsRecord)> = BTreeMap::new();
        let topic = self.topics.totals();
        for (order, _, _, record) in self.results(&topic, |it: &TotalsRecord| it.window) {
            let room = record.room.to_string();
            if newest.get(&room).is_none_or(|(known, _)| *known <= order) {
                newest.insert(room, (order, record));
            }
        }
        newest
    }

    /// Returns the fields of the progress from which a publisher knows the finals that no totals record contains yet.
    fn unwritten(&self) -> Unwritten {
        let newest = self.values(&self.topics.progress()).pop();
        newest.map_or_else(Unwritten::default, |value| {
            serde_json::from_slice(&value).unwrap()
        })
    }

    /// Checks that each totals record contains all finals up to its window, and that no final is missing: each one is
    /// in the newest totals record of its room, or is among the finals that a reader has to add because of the
    /// progress.
    fn check_totals(&self) {
        let (finals, newest) = (self.all_finals(), self.newest_totals());
        let unwritten = self.unwritten();
        let mut restored = Sums::new();
        for (room, (order, record)) in &newest {
            let of_room = finals.iter().filter(|it| it.3.room.as_str() == room);
            let until = sums(of_room.filter(|it| it.0 <= *order).map(|it| &it.3));
            assert_eq!(totals_sums(record), until, "{room} as of {order:?}");
            restored.extend(totals_sums(record));
        }
        let later = finals.iter().filter(|(order, partition, offset, record)| {
            let is_later = newest
                .get(record.room.as_str())
                .is_none_or(|(known, _)| order > known);
            let first = match (&unwritten.finals, unwritten.since) {
                (_, None) => return false,
                (None, Some(_)) => 0,
                (Some(finals), Some(_)) => finals.offset(*partition),
            };
            is_later && *offset >= first
        });
        for (key, count) in sums(later.map(|it| &it.3)) {
            *restored.entry(key).or_default() += count;
        }
        assert_eq!(restored, sums(finals.iter().map(|it| &it.3)));
    }
}

fn sums<'a>(finals: impl Iterator<Item = &'a WindowRecord>) -> Sums {
    let mut sums = Sums::new();
    for record in finals {
        for tally in &record.counts {
            let key = (record.room.to_string(), tally.emoji.to_string());
            *sums.entry(key).or_default() += tally.count;
        }
    }
    sums
}

fn totals_sums(record: &TotalsRecord) -> Sums {
    let key = |emoji: &str| (record.room.to_string(), emoji.to_owned());
    let counts = record.counts.entries();
    counts.map(|(emoji, count)| (key(emoji), count)).collect()
}

/// Returns the final-until time at which the totals of all windows up to [`all_final_ms`] are due and written.
fn all_written_ms(span_ms: u64) -> u64 {
    T0 + span_ms + PERIOD_MS + 2000
}

fn pace(rng: &mut impl Rng) -> TotalsPace {
    let close_bytes = if rng.random_bool(0.5) { 0 } else { usize::MAX };
    TotalsPace {
        close_bytes,
        ..PACE
    }
}

#[test]
fn totals_of_large_rooms_are_complete_for_any_restart() {
    for seed in seeds() {
        let mut rng = rng(3000 + seed);
        let fixture = Fixture::new(rng.random_range(1..5));
        let span_ms = 40_000;
        let (mut rest, oracle) = events(&fixture, &mut rng, span_ms);
        let mut are_behind = 0;
        for _ in 0..rng.random_range(2..7) {
            fixture.append(rest.drain(..rng.random_range(0..=rest.len() / 2)).collect());
            let commits = fixture.commits() + rng.random_range(1..10);
            let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..60));
            let config = fixture.config_of(rng.random_range(1..5), pace(&mut rng));
            fixture.run_until(config, || {
                fixture.commits() > commits || Instant::now() > deadline
            });
            fixture.check_totals();
            are_behind += u64::from(fixture.unwritten().since.is_some());
        }
        fixture.append(rest);
        // The heartbeats are 8 s later than usual, since totals records that are due at the same time may be written
        // one per close.
        fixture.append(closing(&fixture, span_ms + 8000));
        let until_ms = all_written_ms(span_ms) + 4000;
        fixture.run_until(fixture.config_of(2, pace(&mut rng)), || {
            fixture.final_until_ms() >= until_ms
        });
        fixture.check_totals();
        // The totals of every room were written after its last final, so `check` can compare the newest totals with all
        // finals.
        check(&fixture, &oracle);
        println!("{are_behind} run(s) ended while totals were not written");
    }
}

#[test]
fn which_totals_are_written_does_not_depend_on_the_workers() {
    let written = |workers| {
        let fixture = Fixture::new(3);
        let (records, _) = events(&fixture, &mut rng(7), 30_000);
        fixture.append(records);
        fixture.append(closing(&fixture, 30_000));
        fixture.run_until(fixture.config_of(workers, PACE), || {
            fixture.final_until_ms() >= all_final_ms(30_000)
        });
        fixture.check_totals();
        let mut totals = fixture.values(&fixture.topics.totals());
        totals.sort();
        totals
    };
    let one = written(1);
    assert!(!one.is_empty());
    assert_eq!(one, written(2));
    assert_eq!(one, written(5));
}

#[test]
fn a_run_continues_from_progress_of_version_0_1() {
    let mut rng = rng(4000);
    let fixture = Fixture::new(2);
    let (records, oracle) = events(&fixture, &mut rng, 40_000);
    // The first run reads half of each partition. If it read all of one partition and nothing of the other, no window
    // would close.
    let of_partition = records.chunk_by(|a, b| a.partition == b.partition);
    let halves = of_partition.map(|all| all.split_at(all.len() / 2));
    let (before, after): (Vec<_>, Vec<_>) = halves.unzip();
    fixture.append(before.concat());
    // The first run writes the totals of a room at each change.
    let written_always = TotalsPace {
        small_items: usize::MAX,
        ..PACE
    };
    fixture.run_until(fixture.config_of(2, written_always), || {
        !fixture.finals().is_empty()
    });
    let newest = fixture.values(&fixture.topics.progress()).pop().unwrap();
    let mut progress: serde_json::Value = serde_json::from_slice(&newest).unwrap();
    assert_eq!(progress["format"], 1);
    progress.as_object_mut().unwrap().remove("finals");
    fixture.store(&progress);
    fixture.append(after.concat());
    fixture.append(closing(&fixture, 48_000));
    let finals = fixture.finals().len();
    fixture.run_until(fixture.config_of(1, PACE), || {
        fixture.finals().len() > finals
    });
    fixture.check_totals();
    fixture.run_until(fixture.config_of(3, PACE), || {
        fixture.final_until_ms() >= all_written_ms(40_000)
    });
    fixture.check_totals();
    check(&fixture, &oracle);
}

#[test]
fn after_backward_resets_totals_hold_the_finals_of_all_times_once() {
    for seed in seeds() {
        let mut rng = rng(5000 + seed);
        let fixture = Fixture::new(rng.random_range(1..4));
        let span_ms = 40_000;
        let (mut rest, _) = events(&fixture, &mut rng, span_ms);
        for _ in 0..rng.random_range(1..5) {
            fixture.append(rest.drain(..rng.random_range(0..=rest.len() / 2)).collect());
            let commits = fixture.commits() + rng.random_range(1..8);
            let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..60));
            let config = fixture.config_of(rng.random_range(1..4), pace(&mut rng));
            fixture.run_until(config, || {
                fixture.commits() >= commits || Instant::now() > deadline
            });
            fixture.check_totals();
            let until_ms = fixture.final_until_ms();
            if until_ms > 0 && rng.random_bool(0.8) {
                let back_ms = until_ms - rng.random_range(1..20_000);
                fixture.reset_to(ResetFrom::Kept, Some(back_ms)).unwrap();
                fixture.check_totals();
            }
        }
        fixture.append(rest);
        fixture.append(closing(&fixture, span_ms + 8000));
        let until_ms = all_written_ms(span_ms) + 4000;
        fixture.run_until(fixture.config_of(2, PACE), || {
            fixture.final_until_ms() >= until_ms
        });
        fixture.check_totals();
        let mut newest = Sums::new();
        for (_, record) in fixture.newest_totals().values() {
            newest.extend(totals_sums(record));
        }
        let finals = fixture.all_finals();
        assert_eq!(newest, sums(finals.iter().map(|it| &it.3)));
    }
}

/// Returns a fixture with a large room whose totals do not contain its finals yet.
fn behind() -> Fixture {
    let fixture = Fixture::new(1);
    let batch = |at_ms: u64| {
        let emojis = ["🔥", "👏"].map(|it| emostream_model::Emoji::from_text(it).unwrap());
        let reactions = emojis.map(|emoji| emostream_model::Reaction {
            emoji,
            ..reaction(at_ms)
        });
        fixture.reaction_record(0, at_ms, Batch::encode(at_ms, &reactions))
    };
    fixture.append([0, 2000, 4000].map(|at_ms| batch(T0 + at_ms)).into());
    let beat_ms = T0 + 4750;
    fixture.append(vec![fixture.reaction_record(
        0,
        beat_ms,
        Batch::heartbeat(beat_ms),
    )]);
    fixture.run_until(fixture.config_of(1, SLOW), || fixture.finals().len() == 2);
    assert!(fixture.unwritten().since.is_some());
    assert!(fixture.newest_totals().is_empty());
    fixture.check_totals();
    fixture
}

/// Returns a result as another build would write it.
fn result(fixture: &Fixture, topic: String, room: &str, start_ms: u64, counts: &str) -> NewRecord {
    let end_ms = start_ms + 2000;
    let json = format!(
        r#"{{"room":"{room}","start":{start_ms},"end":{end_ms},"total":7,"counts":[{counts}]}}"#
    );
    NewRecord {
        topic,
        partition: None,
        key: Some(room.to_owned().into()),
        ..fixture.reaction_record(0, start_ms, json.into())
    }
}

const UNKNOWN_TALLY: &str = r#"{"emoji":"新","count":7,"swarms":0,"loose":7}"#;

/// Another build counted the unknown emojis. It wrote no totals record for the room `other`, since none was due yet.
#[test]
fn emojis_that_this_build_does_not_know_make_a_room_large_and_are_restored_from_finals() {
    let fixture = Fixture::new(1);
    let (windows, totals) = (fixture.topics.windows(), fixture.topics.totals());
    let both = r#"{"emoji":"新","count":5},{"emoji":"🔥","count":2}"#;
    fixture.append(vec![result(
        &fixture,
        totals.clone(),
        "default",
        T0 - 2000,
        both,
    )]);
    // The second run restores the totals, from which it knows that the room is large. So it writes no totals record
    // either.
    for at_ms in [0, 12_000] {
        let batch = Batch::encode(T0 + at_ms, [&reaction(T0 + at_ms)]);
        fixture.append(vec![fixture.reaction_record(0, T0 + at_ms, batch)]);
        fixture.append(closing(&fixture, at_ms + 2000));
        fixture.run_until(fixture.config_of(2, SLOW), || {
            fixture.final_until_ms() >= T0 + at_ms + 2000
        });
        assert_eq!(fixture.values(&totals).len(), 1);
        assert!(fixture.unwritten().since.is_some());
    }
    fixture.append(vec![result(&fixture, windows, "other", T0, UNKNOWN_TALLY)]);
    fixture.append(closing(&fixture, 40_000));
    fixture.run_until(fixture.config_of(2, PACE), || {
        fixture.final_until_ms() >= all_written_ms(24_000)
    });
    let newest = fixture.newest_totals();
    let newest = newest.values().map(|(_, record)| totals_sums(record));
    let counts: Vec<u64> = newest.flat_map(Sums::into_values).collect();
    // The two counts of the room `default`, and the count of the unknown emoji in the room `other`.
    assert_eq!(counts, [5, 4, 7]);
}

/// In this test no sum changes after the start. If one changed, the worker would report the room as unwritten even
/// without the restored state.
#[test]
fn a_room_whose_emojis_are_all_unknown_is_named_as_unwritten_until_it_is_due() {
    let fixture = Fixture::new(1);
    fixture.append(closing(&fixture, 2000));
    fixture.run_until(fixture.config(1), || fixture.final_until_ms() >= T0 + 2000);
    let newest = fixture.values(&fixture.topics.progress()).pop().unwrap();
    let mut progress: serde_json::Value = serde_json::from_slice(&newest).unwrap();
    let since = ResultOrder {
        resets: 0,
        start_ms: T0,
    };
    progress["format"] = 2.into();
    progress["unwritten_since"] = serde_json::to_value(since).unwrap();
    fixture.store(&progress);
    let windows = fixture.topics.windows();
    fixture.append(vec![result(&fixture, windows, "other", T0, UNKNOWN_TALLY)]);
    fixture.append(closing(&fixture, 20_000));
    let mut passed = None;
    // A commit may contain the progress from before the last close, so the test waits for one more commit.
    fixture.run_until(fixture.config_of(1, SLOW), || {
        let has_passed = fixture.final_until_ms() >= T0 + 20_000;
        let commits = fixture.commits();
        has_passed && commits > *passed.get_or_insert(commits)
    });
    assert_eq!(fixture.unwritten().since, Some(since));
}

#[test]
fn finals_that_totals_need_and_the_log_does_not_hold_are_refused_until_a_reset() {
    let fixture = behind();
    let newest = fixture.values(&fixture.topics.progress()).pop().unwrap();
    let mut progress: serde_json::Value = serde_json::from_slice(&newest).unwrap();
    assert_eq!(progress["format"], 2);
    progress["finals"]["offsets"] = serde_json::json!([[0, 1000], [1, 0]]);
    fixture.store(&progress);
    let error = fixture.refusal();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("emostream.windows/0"), "{error}");
    fixture.reset_to(ResetFrom::Kept, None).unwrap();
    fixture.append(closing(&fixture, 4000));
    fixture.run_until(fixture.config(1), || {
        fixture.final_until_ms() >= all_final_ms(4000)
    });
    fixture.check_totals();
}

#[test]
fn after_progress_was_lost_totals_are_completed_from_all_finals() {
    let fixture = behind();
    fixture.forget();
    fixture.reset_to(ResetFrom::Kept, Some(T0 + 4000)).unwrap();
    fixture.check_totals();
    fixture.append(closing(&fixture, 4000));
    fixture.run_until(fixture.config_of(1, PACE), || {
        fixture.final_until_ms() >= all_written_ms(4000)
    });
    fixture.check_totals();
    let (_, newest) = fixture.newest_totals().pop_first().unwrap();
    let all: u64 = sums(fixture.finals().iter()).values().sum();
    assert_eq!(newest.1.total, all);
}

#[test]
fn windows_that_are_not_kept_for_as_long_as_a_restart_needs_are_refused() {
    let log = EmbeddedLog::in_memory().unwrap();
    let finals = keep_for(Duration::from_secs(300));
    let fixture = Fixture::keeping(Arc::new(log), 1, KEEP, finals);
    let error = fixture.refusal();
    assert_eq!(error.exit_code(), 64);
    let sentence = error.to_string();
    assert!(
        sentence.contains("emostream.windows keeps finals for 300s")
            && sentence.contains("retention.ms"),
        "{sentence}"
    );
}

/// With one totals record per close, writing all of them takes longer than the retention of the finals. So records
/// whose finals are about to be deleted are written at once.
#[test]
fn totals_whose_finals_are_about_to_be_deleted_do_not_wait_for_the_others() {
    const ROOMS: usize = 20;
    let kept_ms = 24_000;
    let log = Arc::new(EmbeddedLog::in_memory().unwrap());
    let finals = keep_for(Duration::from_millis(kept_ms));
    let fixture = Fixture::keeping(log, 1, KEEP, finals);
    let emojis = ["🔥", "👏"].map(|it| emostream_model::Emoji::from_text(it).unwrap());
    let in_room = |number| {
        let room = emostream_model::Room::new(&format!("room-{number}")).unwrap();
        emojis.map(|emoji| emostream_model::Reaction {
            emoji,
            room: room.clone(),
            ..reaction(T0)
        })
    };
    let reactions: Vec<_> = (0..ROOMS).flat_map(in_room).collect();
    let heartbeat = |at_ms| fixture.reaction_record(0, at_ms, Batch::heartbeat(at_ms));
    let until_ms = T0 + PERIOD_MS + kept_ms / 2 + 4000;
    let batch = fixture.reaction_record(0, T0, Batch::encode(T0, &reactions));
    fixture.append(vec![batch, heartbeat(until_ms + 750)]);
    let pace = TotalsPace {
        close_bytes: 0,
        ..PACE
    };
    let config = run_with(fixture.config_of(1, pace), |run| {
        run.hold_timeout = Duration::from_secs(5);
    });
    fixture.run_until(config, || fixture.final_until_ms() >= until_ms);
    assert_eq!(fixture.newest_totals().len(), ROOMS);
}

/// Returns the CPU time that all threads of this process have used, in steps of a hundredth of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let ticks = behind_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// Measures the CPU time of a window in which each of many rooms gets one reaction, after each room has had every
/// emoji. Prints the result. Run it by hand: `cargo test --release --test exactly_once -- --ignored --nocapture
/// large_rooms`.
#[test]
#[ignore = "it measures"]
fn a_window_of_large_rooms_costs_what_it_changes() {
    const ROOMS: usize = 4000;
    const EMOJIS: usize = 1591;
    let room = |number: usize| emostream_model::Room::new(&format!("room-{number}")).unwrap();
    let emojis: Vec<emostream_model::Emoji> = emostream_model::Emoji::all().take(EMOJIS).collect();
    let always = TotalsPace {
        small_items: usize::MAX,
        ..TotalsPace::default()
    };
    for (name, pace) in [
        ("each change", always),
        ("by default", TotalsPace::default()),
    ] {
        let fixture = Fixture::new(4);
        let mut transactor = fixture
            .log
            .transactor("t", Duration::from_secs(60))
            .unwrap();
        for rooms in (0..ROOMS).collect::<Vec<_>>().chunks(100) {
            let record = |number: &usize| {
                let counts = emojis.iter().map(|emoji| emostream_model::Count {
                    emoji: *emoji,
                    count: 1,
                });
                let record = TotalsRecord {
                    room: room(*number),
                    window: WindowSize::from_ms(2000).unwrap().window_of(T0 - 2000),
                    total: EMOJIS as u64,
                    counts: TotalCounts {
                        named: counts.collect(),
                        ..TotalCounts::default()
                    },
                };
                NewRecord {
                    topic: fixture.topics.totals(),
                    partition: None,
                    time_ms: None,
                    key: Some(room(*number).as_str().to_owned().into()),
                    value: record.to_json().into(),
                    headers: Vec::new(),
                }
            };
            transactor
                .commit(rooms.iter().map(record).collect())
                .unwrap();
        }
        let config = Config {
            trending_span: Duration::from_secs(60),
            ..fixture.config_of(1, pace)
        };
        let begun = (Instant::now(), cpu());
        let (stop, running) = fixture.start(config);
        let (mut used, mut ends) = (begun.1, Vec::new());
        for nth in 0..4_u64 {
            let at_ms = T0 + nth * 2000;
            let rooms = if nth == 0 { 1 } else { ROOMS };
            let reactions: Vec<_> = (0..rooms)
                .map(|number| emostream_model::Reaction {
                    room: room(number),
                    ..reaction(at_ms)
                })
                .collect();
            let mut records: Vec<_> = (0..4_u32)
                .zip(reactions.chunks(reactions.len().div_ceil(4)))
                .map(|(partition, some)| {
                    fixture.reaction_record(partition, at_ms, Batch::encode(at_ms, some))
                })
                .collect();
            let beat_ms = at_ms + 2750;
            records.extend(
                (0..4).map(|p| fixture.reaction_record(p, beat_ms, Batch::heartbeat(beat_ms))),
            );
            fixture.append(records);
            while fixture.final_until_ms() < at_ms + 2000 {
                assert!(!running.is_finished());
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(200));
            let (now, mut bytes) = (cpu(), [0; 3]);
            let topics = [
                fixture.topics.windows(),
                fixture.topics.totals(),
                fixture.topics.trending(),
            ];
            for (topic, bytes) in topics.iter().zip(&mut bytes) {
                let kept = fixture.log.offsets(topic).unwrap();
                for (partition, end) in (0..).zip(kept.into_iter().map(|kept| kept.end)) {
                    let known = ends.iter().rev();
                    let from = known
                        .filter(|(of, p, _)| of == topic && *p == partition)
                        .map(|(_, _, end)| *end)
                        .next();
                    let mut add = |record: emostream_log::Record<'_>| *bytes += record.value.len();
                    if let Some(from) = from.filter(|from| *from < end) {
                        emostream_log::read_from(
                            &*fixture.log,
                            topic,
                            &[(partition, from)],
                            &mut add,
                        )
                        .unwrap();
                    }
                    ends.push((topic.clone(), partition, end));
                }
            }
            let megabytes = bytes.map(|bytes| bytes as f64 / 1e6);
            println!(
                "{name}, window {nth}: {:.0} ms CPU, MB of windows, totals, trending: {megabytes:.2?}; {:.1?} since the start",
                (now - used).as_secs_f64() * 1e3,
                begun.0.elapsed()
            );
            // The CPU time with which the test itself reads the records does not count, so the measurement begins again
            // here.
            used = cpu();
        }
        stop.request();
        running.join().unwrap().unwrap();
    }
}
