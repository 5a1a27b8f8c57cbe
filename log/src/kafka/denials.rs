//! Permissions that the brokers deny to the clients of this process.
//!
//! An ACL reaches every broker only seconds after it was added, and may be removed and added again while a client
//! runs. So a denied request is repeated until it was denied for [`KafkaOptions::denial_patience`]; meanwhile the
//! denial is logged once and shown in readiness ([`Log::answers`]).
//!
//! [`KafkaOptions::denial_patience`]: super::KafkaOptions::denial_patience
//! [`Log::answers`]: crate::Log::answers

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

use crate::LogError;

/// How long to wait until a request that was denied is repeated.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Shared by all clients of a log.
#[derive(Debug, Clone, Default)]
pub(super) struct Denials {
    patience: Duration,
    /// Whether `since` has an entry, so that a request that is allowed costs one atomic load.
    any: Arc<AtomicBool>,
    /// Operation and resource, and when the brokers first denied it.
    since: Arc<Mutex<BTreeMap<(&'static str, String), Instant>>>,
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
        if !known.contains_key(&key) && !self.patience.is_zero() {
            tracing::warn!(
                "Kafka denies this client {operation} on {resource} and the request is repeated; give its principal that permission (`emostream topics check` prints the commands)"
            );
        }
        let since = *known.entry(key).or_insert(now);
        self.any.store(true, Ordering::Release);
        let lasting = now.saturating_duration_since(since) >= self.patience;
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
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut known = self.known();
        if known.remove(&(operation, resource.to_string())).is_some() {
            tracing::info!("Kafka allows this client {operation} on {resource} again");
        }
        self.any.store(!known.is_empty(), Ordering::Release);
    }

    /// What is denied at present, if anything is.
    pub(super) fn current(&self) -> Option<LogError> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let known = self.known();
        let ((operation, resource), _) = known.first_key_value()?;
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
                    // Also after a final denial: a caller that continues without the permission would never be ready.
                    if let Some((operation, resource)) = denied {
                        self.allow(operation, format_args!("{resource}"));
                    }
                    return answer;
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
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
