//! The harness of the system tests: real processes, real sockets, and deadlines instead of sleeps.

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
pub mod npm;
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

/// Timeout that is long enough for two busy cores; only a test that fails waits this long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Interval at which a condition is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `condition` returns a value. After [`DEADLINE`] it panics with `what` in the message.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    until_within(DEADLINE, what, condition)
}

/// Waits as [`until`] does, with another deadline.
pub fn until_within<T>(limit: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(limit, condition).unwrap_or_else(|| panic!("not within {limit:?}: {what}"))
}

/// Waits as [`until`] does, but returns `None` after the deadline.
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

/// Returns the current time in Unix milliseconds.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64
}

/// Returns a name that no other run uses.
pub fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// Returns the seed of a test's random values, and prints it. The variable `EMOSTREAM_TEST_SEED` sets it.
pub fn seed() -> u64 {
    let given = std::env::var("EMOSTREAM_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| text.parse().unwrap());
    println!("EMOSTREAM_TEST_SEED={seed} replays this run's random moments");
    seed
}
