//! The graceful shutdown of a process, and its deadline.

#![allow(
    clippy::disallowed_methods,
    reason = "computes the deadline of a drain"
)]

use std::time::{Duration, Instant};

use emostream_http::DrainOutcome;
use tokio::task::JoinHandle;

/// Maximum duration of a drain. It is shorter than the ten seconds that an orchestrator gives a process to end, since
/// closing the log may take another second after the drain.
const DRAIN_LIMIT: Duration = Duration::from_millis(8_500);

/// A graceful shutdown that has begun, with its deadline.
pub struct Drain {
    deadline: Instant,
}

impl Drain {
    /// Begins the shutdown.
    pub fn begin() -> Self {
        Self {
            deadline: Instant::now() + DRAIN_LIMIT,
        }
    }

    /// Returns the time until the deadline.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until the connections of a listener have ended, at most until the deadline.
    pub async fn wait_for(&self, serving: JoinHandle<DrainOutcome>) {
        match tokio::time::timeout(self.left(), serving).await {
            Ok(Ok(DrainOutcome { remaining: 0 })) => {}
            Ok(Ok(DrainOutcome { remaining })) => {
                tracing::warn!(left = remaining, "connections did not end in time")
            }
            // The task cannot fail here, since a panic of the task would have ended the process.
            Ok(Err(_)) => {}
            Err(_) => tracing::warn!("connections did not end in time"),
        }
    }
}
