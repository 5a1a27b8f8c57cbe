//! How a dataflow is asked to end, and why it ended by itself.
//!
//! An active run has a child of its process's stop: a fenced run ends alone, and its process stands by.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::StreamsError;

/// Asks a dataflow to stop: without closing a window, within a tenth of a second.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The parent: a stop that is requested there stops this one as well.
    parent: Option<Stop>,
    requested: AtomicBool,
    /// Whether what was to stop has ended.
    over: AtomicBool,
    failure: Mutex<Option<StreamsError>>,
}

impl Stop {
    /// Asks it to stop.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Release);
    }

    /// Whether it was asked to, or has failed.
    pub fn is_requested(&self) -> bool {
        let parent = self.0.parent.as_ref();
        self.0.requested.load(Ordering::Acquire) || parent.is_some_and(Stop::is_requested)
    }

    /// Everything that was to stop has ended.
    pub fn end(&self) {
        self.0.over.store(true, Ordering::Release);
    }

    /// Whether everything that was to stop has ended.
    pub fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    /// Returns a child stop: it is requested with its parent or alone, and its failure is not passed to the parent.
    pub fn child(&self) -> Stop {
        Stop(Arc::new(Inner {
            parent: Some(self.clone()),
            ..Inner::default()
        }))
    }

    /// Stops everything since `error` happened. The first error is the one that is told.
    pub fn fail(&self, error: StreamsError) {
        let mut failure = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.request();
    }

    /// Whether both stop the same.
    pub fn is(&self, other: &Stop) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Why it ended by itself, if it did.
    pub fn why_failed(&self) -> Option<StreamsError> {
        let failure = self.0.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_ends_with_its_parent_and_the_parent_goes_on_without_the_child() {
        let parent = Stop::default();
        let (first, second) = (parent.child(), parent.child());
        first.fail(StreamsError::Stuck { worker: 0 });
        assert!(first.is_requested() && first.why_failed().is_some());
        assert!(!parent.is_requested() && !second.is_requested());
        parent.request();
        assert!(second.is_requested() && second.why_failed().is_none());
    }
}
