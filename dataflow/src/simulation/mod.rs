//! A deterministic simulation: the real dataflow, over a log, in a time and with failures that are made
//! of a seed.
//!
//! ```text
//!  seed ─▶ cluster ─┬─ producers ─▶ log ◀─▶ run: recovery, workers one step at a time, sink
//!                 ├─ what happens next: time, delays, crashes, takeovers by starts and by standbys; slow, failed and refused commits
//!                 └─ oracle ◀─ what was appended, what landed
//! ```
//!
//! Nothing but the seed decides what happens: one thread has its turn at a time, no clock is read. A
//! group of processes is simulated as workers of one, which count alike; a crash ends them all, as it
//! does in a group.
//!
//! `cargo test` runs some hundred seeds, `make soak SEEDS=…` as many as wanted; a failure prints its
//! seed, and `SEED=…` replays it.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

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
/// Three windows, so that much slides out.
const SPAN_MS: u64 = 6000;
/// Fewer than there are emojis and rooms, so that some do not show.
const TOP: usize = 2;

/// Rooms are large from their second emoji on, and due every four windows.
const PACE: TotalsPace = TotalsPace {
    small_items: 1,
    period_ms: 8000,
    close_bytes: usize::MAX,
};

/// How many seeds a test runs, unless `SEEDS` says.
const SEEDS: u64 = 300;

/// What happens in the run of a seed before it is healed.
const EVENTS: u32 = 2500;

/// Says how to see a failure again.
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
            .unwrap_or_else(|_| panic!("{variable} is no number: {value}")),
    )
}

#[test]
fn whatever_happens_each_reaction_is_counted_once_or_rejected_once() {
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
