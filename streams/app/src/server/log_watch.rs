//! Checks periodically whether the log responds. `/readyz` depends on the result.
//!
//! This check is necessary because readers and writers retry while the log is unreachable, and do not report that it
//! is.
//!
//! ```text
//!  every 2 s: does the log respond for each topic? ──▶ /readyz
//! ```

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use emostream_http::Component;
use emostream_log::{Log, LogError};

use crate::process::Failure;

/// Interval of the checks, and timeout of each check. So an outage is reported within two intervals, which are four
/// seconds.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A thread that checks the log periodically. It stops when this value is dropped.
pub struct LogWatch {
    _stop: Sender<()>,
}

impl LogWatch {
    /// Starts a thread that checks whether `log` responds for all `topics`. If a topic was deleted, the thread reports
    /// this within seconds, and not only at the next write to the topic.
    pub(super) fn start(
        log: Arc<dyn Log>,
        topics: Vec<String>,
        component: Component,
    ) -> Result<Self, Failure> {
        let (stop, stopped) = channel();
        let check = move || {
            let mut responded = true;
            loop {
                let mut topics = topics.iter();
                let result = topics.try_for_each(|topic| log.answers(topic, RESPONSE_TIMEOUT));
                report(&component, &result, responded);
                responded = result.is_ok();
                match stopped.recv_timeout(CHECK_INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
        };
        let named = thread::Builder::new().name("log-watch".to_owned());
        named.spawn(check).map_err(|error| {
            Failure::unavailable(format!(
                "the thread that checks the log cannot start: {error}"
            ))
        })?;
        Ok(Self { _stop: stop })
    }
}

/// Sets the readiness to the result of a check, and logs a change. `responded` is whether the previous check succeeded.
fn report(component: &Component, result: &Result<(), LogError>, responded: bool) {
    match result {
        Ok(()) => {
            component.ready();
            if !responded {
                tracing::info!("the log responds again");
            }
        }
        Err(error) => {
            component.not_ready(error.to_string());
            if responded {
                tracing::warn!(%error, "not ready");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use emostream_http::Readiness;

    use super::*;

    #[test]
    fn readiness_depends_on_the_log() {
        let readiness = Readiness::new();
        let component = readiness.component("log");
        report(&component, &Err(LogError::Full), true);
        let reason = readiness.check().expect_err("the log does not respond");
        assert!(reason.starts_with("log: "), "{reason}");
        report(&component, &Ok(()), false);
        assert_eq!(readiness.check(), Ok(()));
    }
}
