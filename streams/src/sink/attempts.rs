//! The retry policy of commits: whether a transaction that failed is written again, and when.
//!
//! ```text
//!  failure ─┬─ no answer, aborted, a broker changes ───────▶ retry with backoff, without a limit
//!           ├─ a topic is missing, or a write is denied ───▶ retry for as long as the failure may be temporary
//!           ├─ a rejected record is not accepted ──────────▶ retry with its headers alone
//!           └─ fenced, not accepted, too slow three times ─▶ the run ends
//! ```
//!
//! The policy is a pure function: time and failures are passed in.

use std::time::{Duration, Instant};

use emostream_log::LogError;

use crate::StreamsError;

/// Time for which a topic may be missing before the run ends. Some seconds pass until all brokers have the metadata of
/// a new topic, or until a broker that has just started has the metadata of any topic.
const MISSING_TIMEOUT: Duration = Duration::from_secs(30);

/// The run ends after one transaction has timed out this many times while the log responds to other requests.
const MAX_TIMEOUTS: u32 = 3;

/// The pause after the first failure. Each further pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Maximum pause. After this time at the latest, the run uses a broker that is available again. The pause is shorter
/// than the shortest `--takeover`, so that a standby sees the attempts and does not take over.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// The failed attempts to commit one transaction.
#[derive(Debug, Default)]
pub struct Attempts {
    failures: u32,
    timeouts: u32,
    missing_since: Option<Instant>,
}

/// A failed attempt: the call that failed, with its error.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// No transactor could be opened, or the progress could not be read: the log does not answer.
    #[error(transparent)]
    Opening(LogError),
    /// Records could not be written or committed.
    #[error(transparent)]
    Writing(LogError),
}

/// The transaction that failed.
#[derive(Debug, Clone, Copy)]
pub struct Transaction<'a> {
    /// The topic of the rejected records.
    pub rejected: &'a str,
    /// The size of the transaction's results, bytes.
    pub bytes: usize,
    /// The timeout of transactions.
    pub timeout: Duration,
}

/// The action of the commit thread after a failure.
#[derive(Debug)]
pub enum Next {
    /// The thread writes the transaction again after this pause.
    Retry(Duration),
    /// The thread writes the transaction again at once. Rejected records of at least this number of bytes are written
    /// with their headers alone. If there are no such records, the run ends with the error.
    Shorten(usize, StreamsError),
    /// The run ends with this error: a retry would not help, or another run commits the transaction.
    End(StreamsError),
}

impl Attempts {
    /// Returns the action of the commit thread after the next failure.
    pub fn on(&mut self, failed: Failed, transaction: Transaction<'_>, now: Instant) -> Next {
        let error = match failed {
            Failed::Opening(error) => {
                self.timeouts = 0;
                error
            }
            Failed::Writing(error) => {
                self.timeouts += u32::from(matches!(error, LogError::TimedOut { .. }));
                error
            }
        };
        self.failures += 1;
        let missing = matches!(error, LogError::UnknownTopic { .. });
        self.missing_since = missing.then(|| self.missing_since.unwrap_or(now));
        let missing_for = self
            .missing_since
            .map_or(Duration::ZERO, |since| now - since);
        match error {
            // This run cannot continue: a new process must open the log, or another run has taken over.
            LogError::Fenced { .. }
            | LogError::InUse { .. }
            | LogError::Damaged { .. }
            | LogError::Disk { .. }
            | LogError::Denied { repeated: true, .. } => Next::End(StreamsError::Log(error)),
            LogError::NotAccepted {
                ref topic, bytes, ..
            } if topic == transaction.rejected => {
                Next::Shorten(bytes, StreamsError::NotCommitted(error))
            }
            LogError::NotAccepted { .. } | LogError::Ahead { .. } => {
                Next::End(StreamsError::NotCommitted(error))
            }
            LogError::UnknownTopic { .. } if missing_for >= MISSING_TIMEOUT => {
                Next::End(StreamsError::NotCommitted(error))
            }
            LogError::TimedOut { .. } if self.timeouts >= MAX_TIMEOUTS => {
                Next::End(StreamsError::CommitTooSlow {
                    attempts: self.timeouts,
                    bytes: transaction.bytes,
                    timeout: transaction.timeout,
                })
            }
            _ => Next::Retry(self.pause()),
        }
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (FIRST_PAUSE * 2_u32.pow(doublings)).min(MAX_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRANSACTION: Transaction<'_> = Transaction {
        rejected: "rejected",
        bytes: 9_000_000,
        timeout: Duration::from_secs(60),
    };

    fn timed_out() -> LogError {
        let detail = "the records of windows".to_owned();
        LogError::TimedOut { detail }
    }

    fn missing() -> LogError {
        let topic = "windows".to_owned();
        LogError::UnknownTopic { topic }
    }

    fn not_accepted(topic: &str) -> LogError {
        LogError::NotAccepted {
            topic: topic.to_owned(),
            bytes: 700,
            reason: "it is too large".to_owned(),
        }
    }

    fn aborted() -> LogError {
        let detail = "coordinator moved".to_owned();
        LogError::Aborted { detail }
    }

    /// Returns the action after each failure. There is one failure a second.
    fn outcomes(failures: impl IntoIterator<Item = Failed>) -> Vec<Next> {
        let (mut attempts, begun) = (Attempts::default(), Instant::now());
        let each = (0..).zip(failures);
        each.map(|(second, failed)| {
            let now = begun + Duration::from_secs(second);
            attempts.on(failed, TRANSACTION, now)
        })
        .collect()
    }

    fn assert_all_are_repeated(failures: impl IntoIterator<Item = Failed>) {
        let next = outcomes(failures);
        assert!(
            next.iter().all(|next| matches!(next, Next::Retry(_))),
            "{next:?}"
        );
    }

    fn exit_code(next: Option<&Next>) -> Option<u8> {
        match next? {
            Next::End(error) => Some(error.exit_code()),
            Next::Retry(_) | Next::Shorten(..) => None,
        }
    }

    #[test]
    fn temporary_failures_are_retried_without_a_limit_and_with_growing_pauses() {
        let next = outcomes((0..20).map(|_| Failed::Writing(aborted())));
        let pauses: Vec<u64> = next
            .iter()
            .filter_map(|next| match next {
                Next::Retry(pause) => Some(pause.as_secs()),
                _ => None,
            })
            .collect();
        assert_eq!(pauses.len(), 20);
        assert_eq!(pauses[..5], [1, 2, 4, 5, 5]);
    }

    #[test]
    fn three_timeouts_while_the_log_answers_end_the_run_and_name_size_and_flag() {
        let next = outcomes((0..3).map(|_| Failed::Writing(timed_out())));
        assert!(matches!(next[1], Next::Retry(_)));
        let Next::End(error) = &next[2] else {
            panic!("{:?}", next[2])
        };
        assert_eq!(error.exit_code(), 78);
        let sentence = error.to_string();
        assert!(
            sentence.contains("--commit-timeout") && sentence.contains("9.0 MB"),
            "{sentence}"
        );
    }

    #[test]
    fn timeouts_while_the_log_does_not_answer_do_not_end_the_run() {
        assert_all_are_repeated((0..30).map(|number| match number % 2 {
            0 => Failed::Writing(timed_out()),
            _ => Failed::Opening(timed_out()),
        }));
    }

    #[test]
    fn a_topic_may_be_missing_for_half_a_minute() {
        let next = outcomes((0..31).map(|_| Failed::Writing(missing())));
        assert!(matches!(next[29], Next::Retry(_)));
        assert_eq!(exit_code(next.last()), Some(78));
        // After a failure of another kind, the half minute for which the topic may be missing starts again.
        let mut failures: Vec<Failed> = (0..29).map(|_| Failed::Writing(missing())).collect();
        failures.push(Failed::Writing(aborted()));
        failures.extend((0..29).map(|_| Failed::Opening(missing())));
        assert_all_are_repeated(failures);
    }

    #[test]
    fn a_rejected_record_that_is_not_accepted_is_shortened_any_other_ends_it() {
        let next = outcomes([
            Failed::Writing(not_accepted("rejected")),
            Failed::Writing(not_accepted("windows")),
        ]);
        assert!(matches!(next[0], Next::Shorten(700, _)));
        assert_eq!(exit_code(next.last()), Some(78));
    }

    #[test]
    fn another_run_takes_over_at_once() {
        let id = "app".to_owned();
        let next = outcomes([Failed::Opening(LogError::Fenced { id })]);
        assert_eq!(exit_code(next.last()), Some(75));
    }

    proptest! {
        #[test]
        fn a_pause_never_exceeds_the_maximum(failures in 1_usize..200) {
            let next = outcomes((0..failures).map(|_| Failed::Opening(aborted())));
            let bounded = |next: &Next| matches!(next, Next::Retry(pause) if *pause <= MAX_PAUSE);
            prop_assert!(next.iter().all(bounded));
        }
    }
}
