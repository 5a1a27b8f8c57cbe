//! Stop signals. A signal requests the end of a run, and records the error if the run fails.
//!
//! The stop signal of an active run is a child of the stop signal of its process. So a fenced run can end while its
//! process continues as a standby.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::StreamsError;

/// A signal that stops a run within a tenth of a second. The run does not wait until open windows are closed. Clones
/// share the signal.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The parent signal. A request to stop the parent is also a request to stop this one.
    parent: Option<Stop>,
    requested: AtomicBool,
    /// Whether all threads of the run have ended.
    over: AtomicBool,
    failure: Mutex<Option<StreamsError>>,
}

impl Stop {
    /// Requests the stop.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Release);
    }

    /// Whether the stop of this signal or of its parent was requested. [`Stop::fail`] requests the stop, too.
    pub fn is_requested(&self) -> bool {
        let parent = self.0.parent.as_ref();
        self.0.requested.load(Ordering::Acquire) || parent.is_some_and(Stop::is_requested)
    }

    /// Notes that all threads of the run have ended.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    /// Whether all threads of the run have ended, as [`Stop::end`] has recorded.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// Returns a child signal. A stop of the parent also stops the child. A stop or a failure of the child does not
    /// stop the parent.
    pub fn child(&self) -> Stop {
        Stop(Arc::new(Inner {
            parent: Some(self.clone()),
            ..Inner::default()
        }))
    }

    /// Requests the stop because of `error`. Only the first error is recorded.
    pub fn fail(&self, error: StreamsError) {
        let mut failure = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.request();
    }

    /// Whether `other` is a clone of this signal.
    #[cfg(any(test, feature = "simulation"))]
    pub fn is(&self, other: &Stop) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the recorded error, if there is one.
    pub fn why_failed(&self) -> Option<StreamsError> {
        let failure = self.0.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stops_with_its_parent_and_the_parent_continues_without_the_child() {
        let parent = Stop::default();
        let (first, second) = (parent.child(), parent.child());
        first.fail(StreamsError::Stuck { worker: 0 });
        assert!(first.is_requested() && first.why_failed().is_some());
        assert!(!parent.is_requested() && !second.is_requested());
        parent.request();
        assert!(second.is_requested() && second.why_failed().is_none());
    }
}
