//! The wish to stop, handed down as a value.

use tokio::sync::watch;

/// Says that the process is to stop. Every clone says the same; it cannot be taken back.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Nobody has asked to stop yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Asks everyone to stop.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was asked for.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is asked for; at once if it was.
    pub async fn requested(&self) {
        let mut requested = self.0.subscribe();
        // `self` holds the sender, so it cannot go away meanwhile.
        let _ = requested.wait_for(|requested| *requested).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_a_shutdown_before_and_after_it() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        let waiting = tokio::spawn(async move { clone.requested().await });
        shutdown.trigger();
        waiting.await.expect("the wait ends");
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
