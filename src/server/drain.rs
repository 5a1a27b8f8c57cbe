//! The deadline of a process that ends.

#![allow(clippy::disallowed_methods, reason = "a drain has a deadline")]

use std::time::{Duration, Instant};

use emostream_http::DrainOutcome;
use tokio::task::JoinHandle;

/// Maximum duration of a drain. Closing the log may take another second of the ten that an orchestrator gives a
/// process.
const DRAIN_LIMIT: Duration = Duration::from_millis(8_500);

/// A drain with its deadline.
pub(crate) struct Drain {
    deadline: Instant,
}

impl Drain {
    pub(crate) fn begin() -> Self {
        Self {
            deadline: Instant::now() + DRAIN_LIMIT,
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for a listener's connections to end, at most until the deadline.
    pub(crate) async fn wait_for(&self, serving: JoinHandle<DrainOutcome>) {
        match tokio::time::timeout(self.left(), serving).await {
            Ok(Ok(DrainOutcome { remaining: 0 })) => {}
            Ok(Ok(DrainOutcome { remaining })) => {
                tracing::warn!(left = remaining, "connections did not end in time")
            }
            // A panic of the task would have ended the process.
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!("connections did not end in time"),
        }
    }
}
