//! Tests of a host clock that was ahead, and of one that steps back while `up` runs.

use std::{path::Path, time::Duration};

use super::fixture::{
    CROWD, Outcome, Producers, QUICK, WINDOW, assert_contains, ended, refusal, stored,
};
use crate::harness::{
    faketime::HostClock,
    node::{self, Node},
    now_ms, until,
};

const RESET: &str = "emostream reset --final-until";
const DRAINED_WITHIN: Duration = Duration::from_secs(10);

/// Returns the arguments of `up` on the embedded log in `data`.
fn up_arguments(data: &Path) -> Vec<&str> {
    let up = ["up", "--listen", "127.0.0.1:0", "--admin", "off"];
    let data = ["--data", data.to_str().unwrap()];
    [&up[..], &data, &QUICK].concat()
}

#[test]
fn a_clock_that_was_an_hour_ahead_is_refused_until_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("up"));
    let store = ["--data", data.to_str().unwrap()];
    let arguments = up_arguments(&data);
    let clock = HostClock::new(dir.path());
    clock.ahead(Duration::from_secs(3600));
    let wrong = Node::start_in(&clock.environment(), &arguments, &log);
    let mut reactions = stored(&wrong.address, CROWD, 10);
    let outcome = Outcome::of(reactions, &store);
    let hour_ms = outcome.final_until_ms - now_ms();
    assert!(hour_ms > 3_500_000, "the clock was ahead by {hour_ms} ms");
    assert_eq!(wrong.stop(DRAINED_WITHIN).code(), Some(0));

    let refused = ended(&arguments, dir.path().join("refused"));
    assert_contains(&refusal(refused), &[RESET]);
    let reset = ["reset", "--final-until", "now", "--yes"];
    node::output(&[&reset[..], &store].concat());
    // The window that contains the time of the reset is final, so reactions are sent in the next window.
    let reset_ms = now_ms();
    let right = Node::start(&arguments, &log);
    until("the next window", || {
        let next = Duration::from_millis(reset_ms) + WINDOW;
        (Duration::from_millis(now_ms()) > next).then_some(())
    });
    for _ in 0..3 {
        reactions += stored(&right.address, CROWD, 10);
    }
    let outcome = Outcome::of(reactions, &store);
    outcome.assert_all_counted(&[(CROWD, reactions)]);
}

#[test]
fn a_clock_that_steps_back_while_up_runs_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = ["--data", data.to_str().unwrap()];
    let clock = HostClock::new(dir.path());
    clock.ahead(Duration::from_secs(600));
    let log = dir.path().join("up");
    let node = Node::start_in(&clock.environment(), &up_arguments(&data), &log);
    let producers = Producers::start(&node.address);
    producers.continue_for(3 * WINDOW);
    let before = Outcome::of(1, &store).final_until_ms;
    clock.correct();
    producers.continue_for(5 * WINDOW);
    until("finals since the step", || {
        (Outcome::read(&store).final_until_ms > before).then_some(())
    });
    let acknowledged = producers.end();
    let outcome = Outcome::of(acknowledged, &store);
    outcome.assert_all_counted(&[(CROWD, acknowledged)]);
}
