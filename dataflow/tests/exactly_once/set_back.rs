//! Tests of progress that was lost, that was written by version 0.1, or that is ahead of the clock, and of resets that
//! continue from such progress.

use std::{
    sync::{Arc, mpsc::channel},
    time::{Duration, Instant},
};

use emostream_dataflow::{FinalTime, Ready, ResetFrom};
use emostream_model::{Batch, RESETS_HEADER};
use rand::RngExt;

use crate::{
    DEADLINE, Fixture, T0, all_final_ms, check, closing, events, reaction,
    reset::{Sums, added},
    rng, run_with, seeds,
};

impl Fixture {
    /// Starts a run that must be refused. Returns its exit code and its message.
    fn refused(&self) -> (u8, String) {
        let error = self.refusal();
        (error.exit_code(), error.to_string())
    }

    /// Returns the newest value of the progress topic, as JSON.
    fn stored(&self) -> serde_json::Value {
        let newest = self.values(&self.topics.progress()).pop().unwrap();
        serde_json::from_slice(&newest).unwrap()
    }

    pub(crate) fn rejected_reactions(&self) -> Sums {
        let reasons = ["late", "ahead", "unknown_emoji"];
        let of = |reason| self.reactions_in(&self.topics.rejected(), Some(reason));
        reasons.map(of).into_iter().fold(Sums::new(), added)
    }
}

/// Sets the final-until time back to random times, several times. Each reaction must be in one final or be rejected
/// once, and finals must not change.
#[test]
fn setting_the_final_time_back_doubles_and_loses_nothing() {
    for seed in seeds() {
        let mut rng = rng(2000 + seed);
        let fixture = Fixture::new(rng.random_range(1..4));
        let span_ms = 40_000;
        let (mut rest, _) = events(&fixture, &mut rng, span_ms);
        let mut before = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            fixture.append(rest.drain(..rng.random_range(0..=rest.len() / 2)).collect());
            let commits = fixture.commits() + rng.random_range(1..4);
            let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..60));
            fixture.run_until(fixture.config(rng.random_range(1..4)), || {
                fixture.commits() >= commits || Instant::now() > deadline
            });
            let until_ms = fixture.final_until_ms();
            if until_ms > 0 && rng.random_bool(0.8) {
                let back_ms = until_ms - rng.random_range(1..20_000);
                let (plan, done) = fixture.reset_to(ResetFrom::Kept, Some(back_ms)).unwrap();
                let window_end_ms = back_ms.div_ceil(2000) * 2000;
                assert_eq!(done.final_until_ms, window_end_ms);
                match window_end_ms < until_ms {
                    true => assert_eq!(plan.final_time, FinalTime::Backward),
                    false => assert_eq!(plan.final_time, FinalTime::Kept),
                }
            }
            let finals = fixture.finals();
            assert!(
                before.iter().all(|record| finals.contains(record)),
                "finals stay"
            );
            before = finals;
        }
        fixture.append(rest);
        fixture.append(closing(&fixture, span_ms));
        fixture.run_until(fixture.config(2), || {
            fixture.final_until_ms() >= all_final_ms(span_ms)
        });
        let all = fixture.reactions_in(&fixture.topics.reactions(), None);
        assert_eq!(added(fixture.counted(), fixture.rejected_reactions()), all);
    }
}

#[test]
fn after_a_wrong_clock_the_final_time_is_set_back_and_results_say_how_often() {
    let fixture = Fixture::new(1);
    let hour_ms = 3_600_000;
    let batch = |record_ms: u64, at_ms: u64| {
        fixture.reaction_record(0, record_ms, Batch::encode(at_ms, [&reaction(at_ms)]))
    };
    let ahead = |at: u64| batch(T0 + hour_ms + at, T0 + hour_ms + at);
    fixture.append(vec![ahead(0), ahead(3000), ahead(6000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 2);
    // One more record with a wrong time is appended. Its window is not final yet.
    fixture.append(vec![ahead(6100)]);
    let (plan, done) = fixture.reset_to(ResetFrom::Kept, Some(T0)).unwrap();
    assert_eq!(
        (plan.final_time, done.final_until_ms),
        (FinalTime::Backward, T0)
    );
    assert_eq!((plan.finals_after.finals, plan.finals_after.events), (2, 2));
    assert_eq!(fixture.stored()["format"], 2);
    fixture.append(vec![
        batch(T0 + 1000, T0 + 1000),
        batch(T0 + 9000, T0 + 9000),
    ]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 3);
    let starts: Vec<u64> = fixture.finals().iter().map(|f| f.window.start).collect();
    assert_eq!(starts, [T0 + hour_ms, T0 + hour_ms + 2000, T0]);
    // The two reactions in the window at 6 s, which was open at the reset, are rejected once each.
    let ahead: Vec<(u32, u64)> = fixture
        .rejected()
        .into_iter()
        .map(|(p, o, _)| (p, o))
        .collect();
    assert_eq!(ahead, [(0, 2), (0, 3)]);
    let mut resets = Vec::new();
    for topic in [fixture.topics.windows(), fixture.topics.totals()] {
        emostream_log::read_to_end(&*fixture.log, &topic, &mut |record| {
            let headers = record.headers.read();
            let header = headers.iter().find(|header| header.name == RESETS_HEADER);
            resets.push(header.map(|header| header.value.clone()));
        })
        .unwrap();
    }
    // Results from after the reset contain the number of resets, from which readers know which of two records is newer.
    // The topic of totals is compacted, so there are two such records: a final and the newest totals.
    assert_eq!(resets.iter().flatten().count(), 2, "{resets:?}");
    // A later run continues from the progress, and adds to the same totals.
    fixture.append(vec![batch(T0 + 12_000, T0 + 12_000)]);
    fixture.run_until(fixture.config(2), || fixture.finals().len() == 4);
    let totals = fixture.values(&fixture.topics.totals()).pop().unwrap();
    let totals: emostream_model::TotalsRecord = serde_json::from_slice(&totals).unwrap();
    assert_eq!(totals.total, 4);
}

#[test]
fn lost_progress_is_refused_and_a_reset_continues_after_the_finals() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(11), 30_000);
    let (before, after) = records.split_at(records.len() / 2);
    fixture.append(before.to_vec());
    fixture.run_until(fixture.config(1), || fixture.final_until_ms() > 0);
    let until_ms = fixture.final_until_ms();
    fixture.forget();
    let (code, sentence) = fixture.refused();
    assert_eq!(code, 78, "{sentence}");
    assert!(sentence.contains("reset --final-until now"), "{sentence}");
    let (plan, done) = fixture.reset_to(ResetFrom::Kept, Some(until_ms)).unwrap();
    assert_eq!(plan.final_time, FinalTime::Begun);
    assert!(done.settled > 0);
    fixture.append(after.to_vec());
    fixture.append(closing(&fixture, 30_000));
    fixture.run_until(fixture.config(2), || {
        fixture.final_until_ms() >= all_final_ms(30_000)
    });
    let sum = |counts: &Sums| counts.values().sum::<u64>();
    assert_eq!(sum(&fixture.counted()), oracle.counts.values().sum::<u64>());
}

#[test]
fn progress_that_was_rolled_back_is_refused() {
    let fixture = Fixture::new(1);
    let batch =
        |at: u64| fixture.reaction_record(0, T0 + at, Batch::encode(T0 + at, [&reaction(T0 + at)]));
    fixture.append(vec![batch(0), batch(3000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 1);
    let older = fixture.stored();
    fixture.append(vec![batch(6000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 2);
    fixture.store(&older);
    let (code, sentence) = fixture.refused();
    assert_eq!(code, 78, "{sentence}");
    assert!(sentence.contains("rolled back"), "{sentence}");
    assert_eq!(fixture.finals().len(), 2);
    // Events that the lost commit counted are neither counted again nor late.
    fixture.reset_to(ResetFrom::Kept, Some(T0 + 4000)).unwrap();
    fixture.append(vec![batch(9000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 3);
    let starts: Vec<u64> = fixture
        .finals()
        .iter()
        .map(|f| f.window.start - T0)
        .collect();
    assert_eq!((starts, fixture.rejected().len()), (vec![0, 2000, 6000], 0));
}

#[test]
fn a_run_of_version_0_1_is_continued() {
    let fixture = Fixture::new(3);
    let (records, oracle) = events(&fixture, &mut rng(12), 30_000);
    fixture.append(records);
    fixture.run_until(fixture.config(1), || fixture.commits() > 0);
    let mut progress = fixture.stored();
    assert_eq!(progress["format"], 1, "version 0.1 can read it");
    // Version 0.1 wrote these fields and no others.
    let known = [
        "format",
        "settings",
        "final_until_ms",
        "partitions",
        "formers",
    ];
    progress
        .as_object_mut()
        .unwrap()
        .retain(|name, _| known.contains(&name.as_str()));
    for partition in progress["partitions"].as_array_mut().unwrap() {
        let known = [
            "partition",
            "resume_offset",
            "resume_watermark_ms",
            "read_offset",
            "last",
        ];
        partition
            .as_object_mut()
            .unwrap()
            .retain(|name, _| known.contains(&name.as_str()));
    }
    fixture.store(&progress);
    fixture.append(closing(&fixture, 30_000));
    fixture.run_until(fixture.config(2), || {
        fixture.final_until_ms() >= all_final_ms(30_000)
    });
    check(&fixture, &oracle);
}

#[test]
fn a_final_time_ahead_of_the_clock_is_refused_and_may_be_set_back() {
    let fixture = Fixture::new(1);
    let now_ms = emostream_log::EventClock::host().unix_ms();
    let batch =
        |at_ms: u64| fixture.reaction_record(0, at_ms, Batch::encode(at_ms, [&reaction(at_ms)]));
    fixture.append(vec![batch(T0)]);
    fixture.store(&serde_json::json!({
        "format": 1, "final_until_ms": now_ms / 2000 * 2000 + 3_600_000,
        "settings": {"reactions": fixture.topics.reactions(), "window_ms": 2000, "lateness_ms": 750, "swarm_size": 3},
        "partitions": [{"partition": 0, "resume_offset": 1, "resume_watermark_ms": now_ms + 3_600_000, "read_offset": 1}],
    }));
    let (code, sentence) = fixture.refused();
    assert_eq!(code, 78, "{sentence}");
    assert!(sentence.contains("reset --final-until now"), "{sentence}");
    fixture
        .reset_to(ResetFrom::Kept, Some(now_ms - 30_000))
        .unwrap();
    fixture.append(vec![batch(now_ms - 20_000), batch(now_ms - 10_000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 1);
    assert!(fixture.rejected().is_empty());
}

/// A record that is ahead may be right, since the clock of the host may be behind. So the run does not reject the
/// record: the frontier waits, and `/readyz` names the record.
#[test]
fn a_record_ahead_of_the_clock_holds_time_until_a_reset_rejects_it() {
    let fixture = Fixture::new(2);
    let now_ms = emostream_log::EventClock::host().unix_ms();
    let batch = |partition: u32, at_ms: u64| {
        fixture.reaction_record(partition, at_ms, Batch::encode(at_ms, [&reaction(at_ms)]))
    };
    fixture.append(vec![batch(0, now_ms - 60_000), batch(1, now_ms - 60_000)]);
    fixture.append(vec![batch(1, now_ms + 3_000_000)]);
    fixture.append(vec![batch(0, now_ms - 50_000), batch(1, now_ms - 50_000)]);
    let (report, reports) = channel();
    let ready: Ready = Arc::new(move |state| drop(report.send(state)));
    let (stop, running) = fixture.launch(fixture.config(2), prometheus::Registry::new(), ready);
    let deadline = Instant::now() + DEADLINE;
    let reason = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match reports.recv_timeout(left).unwrap() {
            Err(reason) if reason.contains("ahead of this host's clock") => break reason,
            _ => {}
        }
    };
    assert!(
        reason.contains("/1 is held") && reason.contains("offset 1"),
        "{reason}"
    );
    assert!(reason.contains("reset --reject-ahead"), "{reason}");
    stop.request();
    running.join().unwrap().unwrap();
    assert!(fixture.rejected().is_empty());
    fixture.reject_ahead();
    fixture.run_until(fixture.config(1), || fixture.rejected().len() == 1);
    assert_eq!(fixture.rejected(), [(1, 1, "ahead".to_owned())]);
    fixture.append(vec![batch(0, now_ms - 40_000), batch(1, now_ms - 40_000)]);
    fixture.run_until(fixture.config(1), || fixture.finals().len() == 2);
    let totals: Vec<u64> = fixture.finals().iter().map(|f| f.total).collect();
    assert_eq!(totals, [2, 2]);
}

/// The progress contains which partitions are idle, so a restart does not wait for the idle timeout again.
#[test]
fn a_partition_that_was_idle_does_not_delay_a_restart() {
    let fixture = Fixture::new(2);
    let batch =
        |at: u64| fixture.reaction_record(0, T0 + at, Batch::encode(T0 + at, [&reaction(T0 + at)]));
    fixture.append(vec![batch(0), batch(3000)]);
    let config = run_with(fixture.config(1), |run| {
        run.idle_timeout = Duration::from_millis(800);
    });
    fixture.run_until(config.clone(), || fixture.finals().len() == 1);
    assert_eq!(fixture.stored()["partitions"][1]["idle"], true);
    fixture.append(vec![batch(6000)]);
    let patient = run_with(config, |run| run.idle_timeout = 2 * DEADLINE);
    fixture.run_until(patient, || fixture.finals().len() == 2);
}
