//! Whether the log answers, as part of a process's readiness.
//!
//! Readers and writers wait for a log that is away and go on by themselves, so nobody else would tell.
//!
//! ```text
//!  every 2 s: does the log answer for each topic? ──▶ /readyz
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

use crate::exit::Failure;

/// How often it is asked, and how long it may take: an outage shows within four seconds.
const ASK_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(2);

/// Watches until it is dropped.
pub(crate) struct LogWatch {
    _stop: Sender<()>,
}

impl LogWatch {
    /// Asks on a thread of its own whether `log` answers for all `topics`: one that was deleted is missed at
    /// once, and not when something is written there.
    pub(super) fn start(
        log: Arc<dyn Log>,
        topics: Vec<String>,
        component: Component,
    ) -> Result<Self, Failure> {
        let (stop, stopped) = channel();
        let watch = move || {
            let mut answered = true;
            loop {
                let mut topics = topics.iter();
                let answer = topics.try_for_each(|topic| log.answers(topic, PATIENCE));
                tell(&component, &answer, answered);
                answered = answer.is_ok();
                match stopped.recv_timeout(ASK_EVERY) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
        };
        let named = thread::Builder::new().name("log-watch".to_owned());
        named.spawn(watch).map_err(|error| {
            Failure::unavailable(format!("the log's watch cannot start: {error}"))
        })?;
        Ok(Self { _stop: stop })
    }
}

/// Each answer is told to readiness, a change to the people who read the logs.
fn tell(component: &Component, answer: &Result<(), LogError>, answered: bool) {
    match answer {
        Ok(()) => {
            component.ready();
            if !answered {
                tracing::info!("the log answers again");
            }
        }
        Err(error) => {
            component.not_ready(error.to_string());
            if answered {
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
    fn readiness_follows_the_log_and_comes_back() {
        let readiness = Readiness::new();
        let component = readiness.component("log");
        tell(&component, &Err(LogError::Full), true);
        let reason = readiness.check().expect_err("it is away");
        assert!(reason.starts_with("log: "), "{reason}");
        tell(&component, &Ok(()), false);
        assert_eq!(readiness.check(), Ok(()));
    }
}
