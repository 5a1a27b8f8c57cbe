//! What the system tests stand on: real processes, real sockets, deadlines instead of sleeps.
//!
//! Each test binary uses its own part of it.
#![allow(dead_code, reason = "every test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

pub mod authority;
pub mod browser;
pub mod endpoint;
pub mod faketime;
pub mod finals;
pub mod http;
pub mod kafka;
pub mod key_sets;
pub mod load;
pub mod network;
pub mod node;
pub mod origin;
pub mod proxy;
pub mod rooms;
pub mod secured;
pub mod signal;
pub mod sse;
pub mod supervised;
pub mod tokens;
pub mod ws;

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Long enough for two busy cores; only a test that fails waits this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something; fails, naming what was waited for, after [`DEADLINE`].
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, condition)
}

/// The same with a deadline of its own.
pub fn until_within<T>(limit: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(limit, condition).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// The same for a condition that a later assertion is about: `None` if it never gave anything.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Now, Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

/// A name that no other run uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// The seed of a test's random moments: printed, and replayable by EMOSTREAM_TEST_SEED.
pub fn seed() -> u64 {
    let given = std::env::var("EMOSTREAM_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| text.parse().unwrap());
    println!("EMOSTREAM_TEST_SEED={seed} replays this run's random moments");
    seed
}
