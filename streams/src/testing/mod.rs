//! Helpers for the tests of applications, and the fixtures of the unit tests of this crate.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[cfg(test)]
mod fixtures;
#[cfg(test)]
pub(crate) use fixtures::*;

use std::{sync::Arc, thread};

use emostream_log::{
    Log,
    testing::{until, values},
};
use prometheus::Registry;

use crate::{Stop, runtime::run::run, source::format::Format, topology::Application};

/// Creates the topics of the application in the log, each with one partition. Topics that exist already stay as they
/// are.
pub fn create_topics_of<F: Format>(app: &Application<F>, log: &dyn Log) {
    for topic in app.config().topics.specs(1, 1) {
        log.create_topic(&topic).unwrap();
    }
}

/// Runs the application until the log has `count` final results, then stops it. Returns the values of all final results
/// as text.
///
/// # Panics
///
/// If the run ends by itself, or does not write the final results in time.
pub fn run_until_finals<F: Format>(
    app: &Application<F>,
    log: &Arc<dyn Log>,
    count: usize,
) -> Vec<String> {
    let (running, log_of_run, stop) = (app.clone(), log.clone(), Stop::default());
    let stop_of_run = stop.clone();
    let run = move || {
        run(
            running,
            log_of_run,
            &Registry::new(),
            stop_of_run,
            Arc::new(|_| {}),
        )
    };
    let thread = thread::spawn(run);
    let finals = || values(&**log, &app.config().topics.finals);
    until("finals", || {
        assert!(!thread.is_finished(), "the run has ended");
        finals().len() >= count
    });
    stop.request();
    thread.join().unwrap().unwrap();
    let text = |value| String::from_utf8(value).unwrap();
    finals().into_iter().map(text).collect()
}
