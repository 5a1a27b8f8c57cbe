//! Fuzzing of everything that reads what strangers send: bodies, timestamps, emojis, batches.
//!
//! ```text
//!  seed ─▶ something well-formed ─▶ damage ─▶ the reader ─▶ compared with a slower, simpler reader
//! ```
//!
//! `cargo test` runs some hundred cases of each, `make soak` as many as fit into `FUZZ_SECONDS`. A
//! failure prints the smallest case that it finds, and the command that replays it.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

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

/// The cases of one seed.
const CASES: u32 = 400;

/// Tries `test` on cases of `strategy`, seed after seed.
fn fuzz<S: Strategy>(
    target: &str,
    strategy: S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) where
    S::Value: Debug,
{
    let given = number("FUZZ_SEED");
    let patience = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(0));
    let (start, mut seed) = (Instant::now(), given.unwrap_or_else(any_seed));
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
        if given.is_some() || start.elapsed() >= patience {
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
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {value}")))
}
