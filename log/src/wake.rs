//! How a log tells a sleeping reader that there may be something new.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

/// Called when there may be something to poll. Cheap, never blocks, safe from any thread.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// A thread's bell: it sleeps on it, and others ring.
///
/// A ring while nobody sleeps is kept: the next [`Doorbell::wait`] returns at once.
#[derive(Debug, Clone, Default)]
pub struct Doorbell(Arc<(Mutex<bool>, Condvar)>);

impl Doorbell {
    /// Rings: the sleeper wakes, or will not fall asleep.
    pub fn ring(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_one();
    }

    /// Sleeps until it rings, `limit` at most.
    pub fn wait(&self, limit: Duration) {
        let rung = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) = self
            .0
            .1
            .wait_timeout_while(rung, limit, |rung| !*rung)
            .unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }

    /// What a log calls to ring this bell.
    pub fn wake(&self) -> Wake {
        let bell = self.clone();
        Arc::new(move || bell.ring())
    }
}
