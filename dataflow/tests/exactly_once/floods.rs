//! Tests with floods of rejected records: each rejection is written once, in transactions of bounded size.

use std::time::{Duration, Instant};

use emostream_log::NewRecord;
use emostream_model::Batch;
use rand::RngExt;

use crate::{Fixture, T0, UNKNOWN_EMOJI, closing, reaction, rng, seeds};

const GIANT_BYTES: usize = 100_000;
const GIANTS: u64 = 60;
/// Number of seeds. Each writes megabytes, so there are only a few.
const SEEDS: usize = 4;

/// Returns the record of a reaction with a large field that is ignored.
fn giant(fixture: &Fixture, partition: u32, time_ms: u64, emoji: &str) -> NewRecord {
    let padding = "x".repeat(GIANT_BYTES);
    let json = format!(r#"{{"user_id":"u","emoji_type":"{emoji}","padding":"{padding}"}}"#);
    fixture.reaction_record(partition, time_ms, json.into_bytes())
}

fn one(fixture: &Fixture, partition: u32, time_ms: u64) -> NewRecord {
    let value = Batch::encode(time_ms, [&reaction(time_ms)]);
    fixture.reaction_record(partition, time_ms, value)
}

/// Runs the dataflow several times for a short time. The restarts must not change the rejections.
fn restart_often(fixture: &Fixture, rng: &mut impl rand::Rng, times: u32) {
    for _ in 0..times {
        let commits = fixture.commits() + rng.random_range(1..3);
        let deadline = Instant::now() + Duration::from_millis(rng.random_range(1..60));
        let workers = rng.random_range(1..4);
        fixture.run_until(fixture.config(workers), || {
            fixture.commits() >= commits || Instant::now() > deadline
        });
    }
}

#[test]
fn each_junk_record_is_written_once_although_no_window_closes() {
    for seed in seeds().take(SEEDS) {
        let mut rng = rng(seed);
        let fixture = Fixture::new(2);
        fixture.append(vec![one(&fixture, 0, T0), one(&fixture, 1, T0)]);
        let junk = |n| fixture.reaction_record(0, T0 + n, vec![b'x'; GIANT_BYTES]);
        fixture.append((0..GIANTS).map(junk).collect());
        restart_often(&fixture, &mut rng, 3);
        // The last rejections do not fill a transaction, so they are written only when a window closes. All other
        // rejections must be written by this run.
        fixture.run_until(fixture.config(1), || {
            fixture.rejected().len() as u64 + 10 > GIANTS
        });
        assert!(fixture.final_until_ms() <= T0);
        assert_eq!(fixture.finals().len(), 0);
        fixture.append(closing(&fixture, 2000));
        fixture.run_until(fixture.config(2), || fixture.final_until_ms() >= T0 + 2000);
        let expected: Vec<_> = (1..=GIANTS)
            .map(|o| (0, o, "malformed".to_owned()))
            .collect();
        assert_eq!(fixture.rejected(), expected);
        assert_eq!(fixture.finals().iter().map(|f| f.total).sum::<u64>(), 2);
    }
}

#[test]
fn each_reaction_of_a_late_flood_is_rejected_once() {
    for seed in seeds().take(SEEDS) {
        let mut rng = rng(seed);
        let fixture = Fixture::new(2);
        // Event time has advanced further in partition 0 than in partition 1. So the reactions are late in partition 0,
        // while partition 1 holds their windows open.
        let ahead = T0 + 20_000;
        fixture.append(vec![one(&fixture, 1, T0), one(&fixture, 0, ahead)]);
        let late = |n: u64| giant(&fixture, 0, T0 + 4000 + n % 3 * 2000, "fire");
        fixture.append((0..GIANTS).map(late).collect());
        restart_often(&fixture, &mut rng, 2);
        fixture.append(vec![one(&fixture, 1, T0 + 7000)]);
        restart_often(&fixture, &mut rng, 2);
        fixture.append(vec![one(&fixture, 1, ahead)]);
        fixture.append(closing(&fixture, 20_000));
        restart_often(&fixture, &mut rng, 2);
        fixture.run_until(fixture.config(1), || {
            fixture.final_until_ms() >= T0 + 28_000 && fixture.rejected().len() as u64 >= GIANTS
        });
        let expected: Vec<_> = (1..=GIANTS).map(|o| (0, o, "late".to_owned())).collect();
        assert_eq!(fixture.rejected(), expected);
        assert_eq!(fixture.finals().iter().map(|f| f.total).sum::<u64>(), 4);
    }
}

/// The rejections are written when their windows close, and later records of the same partition are needed to close
/// them. So the source must not stop reading the partition until the rejections are written.
#[test]
fn a_flood_with_an_unknown_emoji_does_not_stop_its_own_partition() {
    for seed in seeds().take(SEEDS) {
        let mut rng = rng(seed);
        let fixture = Fixture::new(2);
        let unknown = |n: u64| giant(&fixture, 0, T0 + n * 100, UNKNOWN_EMOJI);
        fixture.append((0..GIANTS).map(unknown).collect());
        restart_often(&fixture, &mut rng, 2);
        fixture.append(vec![one(&fixture, 0, T0 + 6000), one(&fixture, 1, T0)]);
        restart_often(&fixture, &mut rng, 2);
        fixture.append(closing(&fixture, 6000));
        fixture.run_until(fixture.config(1), || fixture.final_until_ms() >= T0 + 8000);
        let unknown = |offset| (0, offset, "unknown_emoji".to_owned());
        let expected: Vec<_> = (0..GIANTS).map(unknown).collect();
        assert_eq!(fixture.rejected(), expected);
        assert_eq!(fixture.finals().iter().map(|f| f.total).sum::<u64>(), 2);
    }
}
