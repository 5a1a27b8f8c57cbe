//! Permissions that the brokers deny to the clients of this process.
//!
//! An ACL reaches all brokers only some seconds after it was added, and it may be removed and added again while a
//! client runs. So a denied request is repeated until it was denied for [`KafkaOptions::denial_timeout`]. Meanwhile the
//! denial is logged once, and [`Log::answers`] returns it, so that the service is not ready.
//!
//! [`KafkaOptions::denial_timeout`]: super::KafkaOptions::denial_timeout
//! [`Log::answers`]: crate::Log::answers

#![allow(
    clippy::disallowed_methods,
    reason = "this module repeats denied requests"
)]

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

/// Pause before a denied request is repeated.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Time after which a denial that was not repeated does not count any more: the client that received it may not have
/// repeated the request.
const DENIAL_LIFETIME: Duration = Duration::from_secs(60);

/// The denials of a log, shared by its clients.
#[derive(Debug, Clone, Default)]
pub(super) struct Denials {
    timeout: Duration,
    /// Whether `known` has an entry. So, while nothing is denied, a successful request needs one atomic load and no
    /// lock.
    any: Arc<AtomicBool>,
    /// The denials by operation and resource.
    known: Arc<Mutex<BTreeMap<(&'static str, String), Denial>>>,
}

/// The first and the last time when the brokers denied an operation.
#[derive(Debug, Clone, Copy)]
struct Denial {
    first: Instant,
    last: Instant,
}

impl Denial {
    fn is_current(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < DENIAL_LIFETIME
    }
}

impl Denials {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            ..Self::default()
        }
    }

    /// Stores `error` if it is a denial, and returns it. Sets [`LogError::Denied::repeated`] if the brokers have denied
    /// the request for the timeout. Returns any other error unchanged.
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
        let earlier = known.get(&key).filter(|denial| denial.is_current(now));
        if earlier.is_none() && !self.timeout.is_zero() {
            let sentence = format!(
                "Kafka denies this client {operation} on {resource} and the request is repeated; give its principal that permission (`emostream topics check` prints the commands)"
            );
            // Until all brokers have a new ACL, some deny what others allow. So a denial may begin and end several
            // times, and is not logged each time.
            if is_due(&sentence) {
                tracing::warn!("{sentence}");
            }
        }
        let first = earlier.map_or(now, |denial| denial.first);
        known.insert(key, Denial { first, last: now });
        self.any.store(true, Ordering::Release);
        let lasting = now.saturating_duration_since(first) >= self.timeout;
        LogError::Denied {
            operation,
            resource,
            repeated: lasting && !self.timeout.is_zero(),
        }
    }

    /// Returns whether to report `error` rather than to repeat the request. A denial is final if the brokers have
    /// repeated it for the timeout, or if the timeout is zero. Any other error is final.
    pub(super) fn is_final(&self, error: &LogError) -> bool {
        match error {
            LogError::Denied { repeated, .. } => *repeated || self.timeout.is_zero(),
            _ => true,
        }
    }

    /// Removes the denial of `operation` on `resource`, if there is one, since the operation has succeeded.
    pub(super) fn allow(&self, operation: &'static str, resource: fmt::Arguments<'_>) {
        if self.any.load(Ordering::Acquire) && self.forget(operation, resource.to_string()) {
            let sentence = format!("Kafka allows this client {operation} on {resource} again");
            if is_due(&sentence) {
                tracing::info!("{sentence}");
            }
        }
    }

    /// Removes a denial. Returns whether there was one.
    fn forget(&self, operation: &'static str, resource: String) -> bool {
        let mut known = self.known();
        let was_denied = known.remove(&(operation, resource)).is_some();
        self.any.store(!known.is_empty(), Ordering::Release);
        was_denied
    }

    /// Returns a denial that was received within [`DENIAL_LIFETIME`], if there is one.
    pub(super) fn current(&self) -> Option<LogError> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let (known, now) = (self.known(), Instant::now());
        let mut counting = known.iter().filter(|(_, denial)| denial.is_current(now));
        let ((operation, resource), _) = counting.next()?;
        Some(LogError::Denied {
            operation,
            resource: resource.clone(),
            repeated: false,
        })
    }

    /// Repeats a request until it is allowed, or its denial is final.
    pub(super) fn retry_denied<T>(
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
                }) if !repeated && !self.timeout.is_zero() => {
                    denied = Some((operation, resource));
                    thread::sleep(RETRY_INTERVAL);
                }
                result => {
                    match denied {
                        Some((operation, resource)) if result.is_ok() => {
                            self.allow(operation, format_args!("{resource}"));
                        }
                        // A final denial is removed, too: otherwise a caller that continues without the permission
                        // would never be ready.
                        Some((operation, resource)) => {
                            self.forget(operation, resource);
                        }
                        None => {}
                    }
                    return result;
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

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn denied() -> LogError {
        Operation::Write.denied("topic t".to_owned())
    }

    #[test]
    fn a_denial_is_final_once_it_was_repeated_for_the_timeout() {
        let denials = Denials::new(TIMEOUT);
        let begun = Instant::now();
        assert!(denials.current().is_none());
        for (after, is_final) in [(0, false), (29, false), (30, true), (31, true)] {
            let error = denials.note(denied(), begun + Duration::from_secs(after));
            assert_eq!(denials.is_final(&error), is_final, "after {after} s");
        }
        assert!(denials.current().is_some());
    }

    #[test]
    fn a_denial_after_the_permission_was_restored_has_the_whole_timeout() {
        let denials = Denials::new(TIMEOUT);
        let begun = Instant::now();
        denials.note(denied(), begun);
        denials.allow("Read", format_args!("topic t"));
        assert!(denials.current().is_some(), "another operation");
        denials.allow("Write", format_args!("topic t"));
        assert!(denials.current().is_none());
        let error = denials.note(denied(), begun + TIMEOUT);
        assert!(!denials.is_final(&error));
    }

    #[test]
    fn a_denial_that_was_not_repeated_for_a_while_starts_again() {
        let denials = Denials::new(TIMEOUT);
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
    fn without_a_timeout_a_denial_is_reported_at_once_and_not_as_repeated() {
        let denials = Denials::default();
        let outcome = denials.retry_denied(|| Err::<(), _>(denied()));
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
        let outcome = Denials::new(TIMEOUT).retry_denied(|| Err::<(), _>(LogError::Full));
        assert!(matches!(outcome, Err(LogError::Full)), "{outcome:?}");
    }
}
