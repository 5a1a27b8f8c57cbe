//! Tests of progress that does not match the log, and of resets that continue from such progress.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_dataflow::{
    Config, Plan, Progress, Reset, ResetFrom, ResetRequest, application, plan, reset,
    streams_topics,
};
use emostream_log::{
    EventClock, NewRecord,
    embedded::EmbeddedLog,
    read_to_end,
    testing::{KEEP, keep_for},
};
use emostream_model::{Batch, WindowSize};
use rand::RngExt;

use crate::{
    Fixture, SPAN_MS, StreamsError, T0, check, closing, events, reaction, rng, run_with, seeds,
};

/// Numbers of reactions, by (room, emoji).
pub(crate) type Sums = BTreeMap<(String, String), u64>;

impl Fixture {
    pub(crate) fn reset(&self, from: ResetFrom) -> Option<Reset> {
        self.reset_to(from, None).map(|(_, done)| done)
    }

    /// Executes a reset that sets the final-until time to this value, or does not change the time if the value is
    /// `None`.
    pub(crate) fn reset_to(
        &self,
        from: ResetFrom,
        final_until_ms: Option<u64>,
    ) -> Option<(Plan, Reset)> {
        self.reset_by(&ResetRequest {
            from,
            final_until_ms,
            reject_ahead: false,
            now_ms: EventClock::host().unix_ms(),
        })
    }

    /// Executes a reset with `--reject-ahead`: records with times after the clock's are rejected, and nothing else
    /// changes.
    pub(crate) fn reject_ahead(&self) {
        let request = ResetRequest {
            from: ResetFrom::Kept,
            final_until_ms: None,
            reject_ahead: true,
            now_ms: EventClock::host().unix_ms(),
        };
        self.reset_by(&request).unwrap();
    }

    fn reset_by(&self, request: &ResetRequest) -> Option<(Plan, Reset)> {
        let topics = streams_topics(&self.topics);
        let plan = plan(&topics, &*self.log, request).unwrap()?;
        let done = reset(&topics, &*self.log, request, &plan).unwrap();
        Some((plan, done))
    }

    /// Stores `progress` as if a run had committed it.
    pub(crate) fn store(&self, progress: &serde_json::Value) {
        self.store_bytes(progress.to_string().into());
    }

    /// Deletes the progress from its compacted topic, by a record with an empty value.
    pub(crate) fn forget(&self) {
        self.store_bytes(Bytes::new());
    }

    fn store_bytes(&self, value: Bytes) {
        self.append(vec![NewRecord {
            topic: self.topics.progress(),
            partition: Some(0),
            time_ms: None,
            key: Some(Bytes::from_static(b"dataflow")),
            value,
            headers: Vec::new(),
        }]);
    }

    pub(crate) fn refusal(&self) -> StreamsError {
        let (_, running) = self.start(self.config(1));
        running.join().unwrap().unwrap_err()
    }

    pub(crate) fn counted(&self) -> Sums {
        let mut sums = Sums::new();
        for record in self.finals() {
            for tally in record.counts {
                let key = (record.room.to_string(), tally.emoji.to_string());
                *sums.entry(key).or_default() += tally.count;
            }
        }
        sums
    }

    /// Counts the reactions in those records of `topic` that can be decoded. If there is a `reason`, only records that
    /// were rejected for this reason count.
    pub(crate) fn reactions_in(&self, topic: &str, reason: Option<&str>) -> Sums {
        let mut sums = Sums::new();
        read_to_end(&*self.log, topic, &mut |record| {
            let has = |reason: &str| {
                let headers = record.headers.read();
                headers
                    .iter()
                    .any(|h| h.name == "reason" && h.value == reason.as_bytes())
            };
            if reason.is_some_and(|reason| !has(reason)) {
                return;
            }
            let mut add = |room: &str, emoji: &str| {
                let key = (room.to_owned(), emoji.to_owned());
                *sums.entry(key).or_default() += 1;
            };
            if let Ok(batch) = Batch::decode(record.value) {
                for reaction in batch.reactions().unwrap() {
                    add(reaction.room, reaction.emoji);
                }
            } else if let Ok(plain) = serde_json::from_slice::<serde_json::Value>(record.value) {
                let text = |field: &str| plain[field].as_str().unwrap();
                add(text("room"), text("emoji_type"));
            }
        })
        .unwrap();
        sums
    }
}

pub(crate) fn added(mut left: Sums, right: Sums) -> Sums {
    for (key, count) in right {
        *left.entry(key).or_default() += count;
    }
    left
}

/// Runs the dataflow several times for a short time, with random settings and resets in between, and then to the end.
/// Each reaction must be in one final or be rejected once. Finals must neither overlap nor change.
#[test]
fn resets_with_other_windows_double_and_lose_nothing() {
    for seed in seeds() {
        let mut rng = rng(1000 + seed);
        let fixture = Fixture::new(rng.random_range(1..4));
        let span_ms = 40_000;
        let (mut rest, _) = events(&fixture, &mut rng, span_ms);
        // The heartbeats are late enough for a window of 7 s to close after a window that an earlier run had begun.
        let closing_ms = span_ms + 10_000;
        rest.extend(closing(&fixture, closing_ms));
        let mut before = Vec::new();
        let last = rng.random_range(2..9);
        let mut settings = (2000, 750);
        for round in 0..=last {
            // In half of the cases the next run keeps the settings of the run before.
            if rng.random_bool(0.5) {
                for _ in 0..rng.random_range(1..3) {
                    let (until, progress) = (fixture.final_until_ms(), fixture.progress());
                    let done = fixture.reset(ResetFrom::Kept);
                    assert_eq!(done.is_some(), progress.is_some());
                    assert_eq!(fixture.final_until_ms(), until);
                }
                settings = (
                    [500, 1000, 2000, 3000, 7000][rng.random_range(0..5)],
                    [0, 300, 750, 2500][rng.random_range(0..4)],
                );
            }
            let (window_ms, lateness_ms) = settings;
            let config = Config {
                window: WindowSize::from_ms(window_ms).unwrap(),
                trending_span: Duration::from_millis(SPAN_MS.next_multiple_of(window_ms)),
                ..run_with(fixture.config(rng.random_range(1..4)), |run| {
                    run.lateness_ms = lateness_ms;
                })
            };
            fixture.append(match round == last {
                true => std::mem::take(&mut rest),
                false => rest.drain(..rng.random_range(0..=rest.len() / 2)).collect(),
            });
            let commits = fixture.commits() + rng.random_range(1..4);
            let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..60));
            let end_ms = config.window.floor(T0 + closing_ms + 10_000 - lateness_ms);
            fixture.run_until(config, || match round == last {
                true => fixture.final_until_ms() >= end_ms,
                false => fixture.commits() >= commits || Instant::now() > deadline,
            });
            let finals = fixture.finals();
            let stays = |record| finals.contains(record);
            assert!(before.iter().all(stays), "what was final stays");
            before = finals;
        }
        let mut spans: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for record in fixture.finals() {
            let span = (record.window.start, record.window.end);
            spans.entry(record.room.to_string()).or_default().push(span);
        }
        for (room, spans) in &mut spans {
            spans.sort_unstable();
            let apart = spans.windows(2).all(|pair| pair[0].1 <= pair[1].0);
            assert!(apart, "{room} has overlapping finals: {spans:?}");
        }
        let all = fixture.reactions_in(&fixture.topics.reactions(), None);
        assert_eq!(added(fixture.counted(), fixture.rejected_reactions()), all);
        let malformed = fixture
            .rejected()
            .into_iter()
            .filter(|r| r.2 == "malformed");
        let mut malformed: Vec<_> = malformed.map(|(p, o, _)| (p, o)).collect();
        let once = malformed.len();
        malformed.dedup();
        assert_eq!(malformed.len(), once, "a rejection is doubled");
    }
}

#[test]
fn a_reset_without_other_settings_changes_nothing() {
    for seed in seeds() {
        let mut rng = rng(seed);
        let fixture = Fixture::new(rng.random_range(1..4));
        let (records, oracle) = events(&fixture, &mut rng, 30_000);
        fixture.append(records);
        fixture.run_until(fixture.config(2), || fixture.commits() > 0);
        fixture.reset(ResetFrom::Kept).unwrap();
        fixture.append(closing(&fixture, 30_000));
        fixture.run_until(fixture.config(1), || {
            fixture.final_until_ms() >= crate::all_final_ms(30_000)
        });
        check(&fixture, &oracle);
    }
}

#[test]
fn a_reset_to_the_latest_offsets_skips_records_and_reports_their_number() {
    let fixture = Fixture::new(1);
    let batch =
        |at: u64| fixture.reaction_record(0, T0 + at, Batch::encode(T0 + at, [&reaction(T0 + at)]));
    fixture.append(vec![batch(0), batch(3000), batch(6000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 2);
    fixture.append(vec![batch(9000), batch(9100)]);
    let done = fixture.reset(ResetFrom::Latest).unwrap();
    // The window at 6 s was still open, so the reset skips the record of this window, too.
    assert_eq!((done.records, done.lost, done.partitions), (3, 0, 1));
    fixture.append(vec![batch(12_000)]);
    fixture.append(closing(&fixture, 12_000));
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 3);
    let starts: Vec<u64> = fixture
        .finals()
        .iter()
        .map(|f| f.window.start - T0)
        .collect();
    assert_eq!(starts, [0, 2000, 12_000]);
    assert!(fixture.rejected().is_empty());
}

#[test]
fn without_progress_there_is_nothing_to_reset() {
    let fixture = Fixture::new(1);
    assert_eq!(fixture.reset(ResetFrom::Kept), None);
    assert_eq!(fixture.commits(), 0);
}

#[test]
fn a_reset_fences_a_run_first() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(5), 20_000);
    fixture.append(records);
    let (_, running) = fixture.start(fixture.config(1));
    fixture.until_final(1);
    fixture.reset(ResetFrom::Kept).unwrap();
    fixture.append(closing(&fixture, 20_000));
    assert_eq!(running.join().unwrap().unwrap_err().exit_code(), 75);
    fixture.run_until(fixture.config(1), || {
        fixture.final_until_ms() >= crate::all_final_ms(20_000)
    });
    check(&fixture, &oracle);
}

/// Returns a fixture with a log of three records, and with progress that has only this partition.
fn misfit(partition: serde_json::Value) -> Fixture {
    let fixture = Fixture::new(1);
    let batch =
        |at: u64| fixture.reaction_record(0, T0 + at, Batch::encode(T0 + at, [&reaction(T0 + at)]));
    fixture.append(vec![batch(0), batch(3000), batch(6000)]);
    fixture.store(&serde_json::json!({
        "format": 1, "settings": application(&fixture.config(1)).unwrap().config().settings, "final_until_ms": T0 + 2000,
        "partitions": [partition],
    }));
    fixture
}

/// Checks that a reset makes the next run read all records as new ones: the record of the final window is rejected as
/// late, and the others are counted.
fn continues_from_the_beginning(fixture: &Fixture) {
    let done = fixture.reset(ResetFrom::Kept).unwrap();
    assert_eq!((done.replaced, done.records), (1, 3));
    fixture.append(closing(fixture, 6000));
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 2);
    assert_eq!(fixture.rejected(), [(0, 0, "late".to_owned())]);
}

#[test]
fn a_truncated_or_recreated_topic_is_refused_and_a_reset_reads_it_from_its_beginning() {
    let fixture = misfit(serde_json::json!(
        {"partition": 0, "resume_offset": 2, "resume_watermark_ms": T0, "read_offset": 9}
    ));
    let error = fixture.refusal();
    assert_eq!(error.exit_code(), 78);
    let message = error.to_string();
    assert!(
        message.contains("up to offset 9") && message.contains("ends at 3"),
        "{message}"
    );
    assert!(message.contains("emostream reset"), "{message}");
    continues_from_the_beginning(&fixture);
}

#[test]
fn reactions_deleted_before_they_were_counted_are_refused_and_a_reset_reports_their_number() {
    let log = Arc::new(EmbeddedLog::in_memory().unwrap());
    // The retention is long enough for open windows, so the start accepts it. The records are much older, so `sweep`
    // deletes them.
    let fixture = Fixture::keeping(log.clone(), 1, keep_for(Duration::from_secs(600)), KEEP);
    let batch =
        |at| fixture.reaction_record(0, T0 + at, Batch::encode(T0 + at, [&reaction(T0 + at)]));
    fixture.append(vec![batch(0), batch(3000), batch(6000)]);
    fixture.store(&serde_json::json!({
        "format": 1, "settings": application(&fixture.config(1)).unwrap().config().settings, "final_until_ms": T0,
        "partitions": [
            {"partition": 0, "resume_offset": 1, "resume_watermark_ms": T0, "read_offset": 2}
        ],
    }));
    log.sweep().unwrap();
    let error = fixture.refusal();
    assert_eq!(error.exit_code(), 78);
    let message = error.to_string();
    assert!(
        message.contains("from offset 1, but begins at 3"),
        "{message}"
    );
    assert!(message.contains("emostream reset"), "{message}");
    let done = fixture.reset(ResetFrom::Kept).unwrap();
    assert_eq!((done.lost, done.records, done.replaced), (2, 0, 0));
    fixture.append(vec![batch(9000)]);
    fixture.append(closing(&fixture, 9000));
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 1);
}

#[test]
fn a_recreated_topic_of_the_same_length_is_recognised_by_its_records() {
    let seen = |time_ms| {
        serde_json::json!({
            "partition": 0, "resume_offset": 1, "resume_watermark_ms": T0, "read_offset": 3,
            "last": {"offset": 2, "time_ms": time_ms},
        })
    };
    let fixture = misfit(seen(T0 + 5999));
    let error = fixture.refusal();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("recreated"), "{error}");
    continues_from_the_beginning(&fixture);
    // In this case the log has the record that was read last according to the progress, so the run is not refused.
    let fixture = misfit(seen(T0 + 6000));
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 1);
}

#[test]
fn a_partition_that_vanished_is_refused_and_a_reset_forgets_it() {
    let fixture = misfit(serde_json::json!(
        {"partition": 4, "resume_offset": 0, "resume_watermark_ms": T0, "read_offset": 0}
    ));
    let error = fixture.refusal();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("reactions/4"), "{error}");
    fixture.reset(ResetFrom::Kept).unwrap();
    let progress: Progress = fixture.progress().unwrap();
    let partitions: Vec<u32> = progress.partitions.iter().map(|p| p.partition).collect();
    assert_eq!(partitions, [0]);
    fixture.run_until(fixture.config(1), || true);
}
