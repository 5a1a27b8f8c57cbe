//! How a dataflow is asked to end, and why it ended by itself.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use crate::DataflowError;

/// Asks a dataflow to stop: without closing a window, within a tenth of a second.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    requested: AtomicBool,
    failure: Mutex<Option<DataflowError>>,
}

impl Stop {
    /// Asks it to stop.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Release);
    }

    /// Whether it was asked to, or has failed.
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Acquire)
    }

    /// Stops everything since `error` happened. The first error is the one that is told.
    pub(crate) fn fail(&self, error: DataflowError) {
        let mut failure = self
            .0
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.request();
    }

    /// Why it ended by itself, if it did.
    pub(crate) fn why_failed(&self) -> Option<DataflowError> {
        let failure = self.0.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
