//! A deterministic simulation: it runs the real dataflow over a simulated log, with times and failures that follow from
//! a seed.
//!
//! ```text
//!  seed ─▶ simulated cluster ─┬─ producers ─▶ log ◀─▶ run: recovery, workers one step at a time, sink
//!                             ├─ events: time, delays, crashes, takeovers by starts and by standbys;
//!                             │          slow, failed and refused commits
//!                             └─ oracle ◀─ records that were appended, committed transactions
//! ```
//!
//! The seed alone determines a run: only one thread runs at a time, and no clock is read. The processes of a cluster
//! are simulated as workers of one process, which handle records in the same way. A crash ends all workers, as the loss
//! of one process ends its cluster.
//!
//! `cargo test` runs a few hundred seeds, and `make soak SEEDS=…` runs any number of seeds. A failure prints its seed,
//! and `SEED=…` replays it.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod oracle;
mod producers;
mod sim_cluster;

use std::{
    env,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use emostream_log::testing::rng;
use emostream_streams::simulation::{Rng, T0};

use sim_cluster::SimCluster;

use crate::TotalsPace;

const WINDOW_MS: u64 = 2000;
const LATENESS_MS: u64 = 750;
const SWARM: u64 = 3;
/// The length of the sliding span of trending emojis: three windows, so that many windows leave the span.
const SPAN_MS: u64 = 6000;
/// Maximum number of trending emojis and rooms in a record. There are more emojis and more rooms, so some are not in
/// the top.
const TOP: usize = 2;

/// The settings of totals records: a room is large as soon as it has two emojis, and the totals of a large room are due
/// every four windows.
const PACE: TotalsPace = TotalsPace {
    small_items: 1,
    period_ms: 8000,
    close_bytes: usize::MAX,
};

/// Default number of seeds that a test runs. The variable `SEEDS` sets another number.
const SEEDS: u64 = 300;

/// Number of simulated events of a seed. After these events all faults end, and the results are checked.
const EVENTS: u32 = 2500;

/// Prints the command that replays the seed if the test panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if thread::panicking() {
            let seed = self.0;
            eprintln!(
                "seed {seed} failed; replay it: SEED={seed} cargo test -p emostream-dataflow simulation"
            );
        }
    }
}

fn simulate(seed: u64) -> Vec<Vec<emostream_log::NewRecord>> {
    let _replay = Replay(seed);
    let mut cluster = SimCluster::new(seed);
    cluster.run_events(EVENTS);
    cluster.end()
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {value}")),
    )
}

#[test]
fn each_reaction_is_counted_once_or_rejected_once() {
    if let Some(seed) = number("SEED") {
        simulate(seed);
        return;
    }
    let (seeds, next) = (number("SEEDS").unwrap_or(SEEDS), AtomicU64::new(0));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seed < seeds
                {
                    simulate(seed);
                }
            });
        }
    });
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 0..3 {
        let once = simulate(seed);
        assert!(!once.is_empty());
        let again = simulate(seed);
        for (number, (one, other)) in once.iter().zip(&again).enumerate() {
            assert_eq!(one, other, "transaction {number} of seed {seed}");
        }
        assert_eq!(once.len(), again.len());
    }
}
