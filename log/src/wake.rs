//! Wakes a thread that waits for new records.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Callback that the log calls when there may be records to poll. It is cheap, does not block, and may be called on any
/// thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A signal that one thread waits for and other threads notify.
///
/// A notification while no thread waits is stored: the next [`WakeSignal::wait`] returns at once.
#[derive(Debug, Clone, Default)]
pub struct WakeSignal(Arc<(Mutex<bool>, Condvar)>);

impl WakeSignal {
    /// Wakes the waiting thread, or the next one that waits.
    pub fn notify(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_one();
    }

    /// Waits for a notification, at most for `limit`.
    pub fn wait(&self, limit: Duration) {
        let notified = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut notified, _) = self
            .0
            .1
            .wait_timeout_while(notified, limit, |notified| !*notified)
            .unwrap_or_else(PoisonError::into_inner);
        *notified = false;
    }

    /// Returns a callback that notifies this signal.
    pub fn wake(&self) -> Wake {
        let signal = self.clone();
        Arc::new(move || signal.notify())
    }
}
