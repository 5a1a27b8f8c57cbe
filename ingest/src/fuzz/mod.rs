//! Fuzz tests of the parsers of client data: bodies, timestamps, emojis and batches.
//!
//! ```text
//!  seed ─▶ valid input ─▶ damage ─▶ parser ─▶ compared with a slower, simpler parser
//! ```
//!
//! `cargo test` runs a few hundred cases of each test. `make soak` runs as many cases as `FUZZ_SECONDS` allows. A
//! failure prints the smallest case that was found, and the command that replays it.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod batch;
mod body;
mod damage;
mod emoji;
mod timestamp;

use std::{
    env,
    fmt::Debug,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

/// Number of cases that are run with each seed.
const CASES: u32 = 400;

/// Runs `test` on cases of `strategy`, with one seed after another until `FUZZ_SECONDS` are over. With `FUZZ_SEED`,
/// runs only the cases of that seed.
fn fuzz<S: Strategy>(
    target: &str,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) where
    S::Value: Debug,
{
    let replayed = number("FUZZ_SEED");
    let duration = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(0));
    let (start, mut seed) = (Instant::now(), replayed.unwrap_or_else(any_seed));
    let mut cases = 0;
    loop {
        if let Err(error) = runner(seed).run(&strategy, &test) {
            let replay = format!("FUZZ_SEED={seed} cargo test -p emostream-ingest fuzz::{target}");
            match error {
                TestError::Fail(why, case) => panic!("{why}\ncase: {case:?}\nreplay: {replay}"),
                TestError::Abort(why) => panic!("{why}\nreplay: {replay}"),
            }
        }
        cases += u64::from(CASES);
        if replayed.is_some() || start.elapsed() >= duration {
            break;
        }
        seed = seed.wrapping_add(1);
    }
    println!("{target}: {cases} cases");
}

fn runner(seed: u64) -> TestRunner {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn any_seed() -> u64 {
    let tree = any::<u64>().new_tree(&mut TestRunner::default());
    tree.unwrap().current()
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is not a number: {value}")))
}
