//! Permissions that the brokers deny to the clients of this process.
//!
//! An ACL reaches every broker only seconds after it was added, and may be removed and added again while a client
//! runs. So a denied request is repeated until it was denied for [`KafkaOptions::denial_patience`]; meanwhile the
//! denial is logged once and shown in readiness ([`Log::answers`]).
//!
//! [`KafkaOptions::denial_patience`]: super::KafkaOptions::denial_patience
//! [`Log::answers`]: crate::Log::answers

#![allow(clippy::disallowed_methods, reason = "repeats denied requests")]

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::context::is_due;
use crate::LogError;

/// How long to wait until a request that was denied is repeated.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How long a denial counts that was not repeated: the client that met it may not have made the request again.
const COUNTS_FOR: Duration = Duration::from_secs(60);

/// Shared by all clients of a log.
#[derive(Debug, Clone, Default)]
pub(super) struct Denials {
    patience: Duration,
    /// Whether `known` has an entry, so that a request that is allowed costs one atomic load.
    any: Arc<AtomicBool>,
    /// By operation and resource.
    known: Arc<Mutex<BTreeMap<(&'static str, String), Denial>>>,
}

/// When the brokers denied an operation.
#[derive(Debug, Clone, Copy)]
struct Denial {
    first: Instant,
    last: Instant,
}

impl Denial {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < COUNTS_FOR
    }
}

impl Denials {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            ..Self::default()
        }
    }

    /// Remembers `error` if it is a denial, and returns it with [`LogError::Denied::repeated`] set once the brokers
    /// have repeated it for the patience. Any other error is returned as it is.
    pub(super) fn note(&self, error: LogError, now: Instant) -> LogError {
        let LogError::Denied {
            operation,
            resource,
            ..
        } = error
        else {
            return error;
        };
        let mut known = self.known();
        let key = (operation, resource.clone());
        let earlier = known.get(&key).filter(|denial| denial.counts(now));
        if earlier.is_none() && !self.patience.is_zero() {
            let sentence = format!(
                "Kafka denies this client {operation} on {resource} and the request is repeated; give its principal that permission (`emostream topics check` prints the commands)"
            );
            // While an ACL spreads, one broker denies what another allows.
            if is_due(&sentence) {
                tracing::warn!("{sentence}");
            }
        }
        let first = earlier.map_or(now, |denial| denial.first);
        known.insert(key, Denial { first, last: now });
        self.any.store(true, Ordering::Release);
        let lasting = now.saturating_duration_since(first) >= self.patience;
        LogError::Denied {
            operation,
            resource,
            repeated: lasting && !self.patience.is_zero(),
        }
    }

    /// Whether to report a denial rather than to repeat the request: the brokers repeated it for the patience, or the
    /// patience is zero.
    pub(super) fn is_final(&self, error: &LogError) -> bool {
        match error {
            LogError::Denied { repeated, .. } => *repeated || self.patience.is_zero(),
            _ => true,
        }
    }

    /// Forgets the denial of `operation` on `resource`, if there was one: the operation succeeded.
    pub(super) fn allow(&self, operation: &'static str, resource: fmt::Arguments<'_>) {
        if self.any.load(Ordering::Acquire) && self.forget(operation, resource.to_string()) {
            let sentence = format!("Kafka allows this client {operation} on {resource} again");
            if is_due(&sentence) {
                tracing::info!("{sentence}");
            }
        }
    }

    /// Whether there was a denial of `operation` on `resource`.
    fn forget(&self, operation: &'static str, resource: String) -> bool {
        let mut known = self.known();
        let was_denied = known.remove(&(operation, resource)).is_some();
        self.any.store(!known.is_empty(), Ordering::Release);
        was_denied
    }

    /// What is denied at present, if anything is.
    pub(super) fn current(&self) -> Option<LogError> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let (known, now) = (self.known(), Instant::now());
        let mut counting = known.iter().filter(|(_, denial)| denial.counts(now));
        let ((operation, resource), _) = counting.next()?;
        Some(LogError::Denied {
            operation,
            resource: resource.clone(),
            repeated: false,
        })
    }

    /// Repeats a request until it is allowed, or its denial is final.
    pub(super) fn insist<T>(
        &self,
        request: impl Fn() -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut denied: Option<(&'static str, String)> = None;
        loop {
            match request().map_err(|error| self.note(error, Instant::now())) {
                Err(LogError::Denied {
                    operation,
                    resource,
                    repeated,
                }) if !repeated && !self.patience.is_zero() => {
                    denied = Some((operation, resource));
                    thread::sleep(RETRY_EVERY);
                }
                answer => {
                    match denied {
                        Some((operation, resource)) if answer.is_ok() => {
                            self.allow(operation, format_args!("{resource}"));
                        }
                        // Also after a final denial: a caller that continues without the permission would never be
                        // ready.
                        Some((operation, resource)) => {
                            self.forget(operation, resource);
                        }
                        None => {}
                    }
                    return answer;
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), Denial>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::failure::Operation;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn denied() -> LogError {
        Operation::Write.denied("topic t".to_owned())
    }

    #[test]
    fn a_denial_is_final_once_it_was_repeated_for_the_patience() {
        let denials = Denials::new(PATIENCE);
        let begun = Instant::now();
        assert!(denials.current().is_none());
        for (after, is_final) in [(0, false), (29, false), (30, true), (31, true)] {
            let error = denials.note(denied(), begun + Duration::from_secs(after));
            assert_eq!(denials.is_final(&error), is_final, "after {after} s");
        }
        assert!(denials.current().is_some());
    }

    #[test]
    fn a_denial_after_the_permission_was_given_back_has_the_whole_patience() {
        let denials = Denials::new(PATIENCE);
        let begun = Instant::now();
        denials.note(denied(), begun);
        denials.allow("Read", format_args!("topic t"));
        assert!(denials.current().is_some(), "another operation");
        denials.allow("Write", format_args!("topic t"));
        assert!(denials.current().is_none());
        let error = denials.note(denied(), begun + PATIENCE);
        assert!(!denials.is_final(&error));
    }

    #[test]
    fn a_denial_that_was_not_repeated_for_a_while_begins_anew() {
        let denials = Denials::new(PATIENCE);
        let begun = Instant::now();
        for (after, is_final) in [
            (0, false),
            (59, true),
            (118, true),
            (178, false),
            (208, true),
        ] {
            let error = denials.note(denied(), begun + Duration::from_secs(after));
            assert_eq!(denials.is_final(&error), is_final, "after {after} s");
        }
    }

    #[test]
    fn without_patience_a_denial_is_reported_at_once_and_not_as_repeated() {
        let denials = Denials::default();
        let outcome = denials.insist(|| Err::<(), _>(denied()));
        assert!(
            matches!(
                outcome,
                Err(LogError::Denied {
                    repeated: false,
                    ..
                })
            ),
            "{outcome:?}"
        );
    }

    #[test]
    fn other_errors_are_not_repeated() {
        let outcome = Denials::new(PATIENCE).insist(|| Err::<(), _>(LogError::Full));
        assert!(matches!(outcome, Err(LogError::Full)), "{outcome:?}");
    }
}
