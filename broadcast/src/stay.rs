//! How long a subscriber may stay.

use std::time::Duration;

use emostream_http::Shutdown;
use tokio::time::{Instant, sleep_until};

/// A subscriber stays until the farewell, or until its token has expired.
pub(crate) struct Stay {
    farewell: Shutdown,
    until: Option<Instant>,
}

/// Why a subscriber's stay is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The server ends; another, or the next one, takes the subscriber.
    Farewell,
    /// Its token has expired; with the same one it may not come back.
    Expired,
}

impl Stay {
    /// Begins now. `left` is how long the token is good, `None` for ever.
    pub(crate) fn new(farewell: Shutdown, left: Option<Duration>) -> Self {
        // What is beyond the clock is for ever, too.
        let until = left.and_then(|left| Instant::now().checked_add(left));
        Self { farewell, until }
    }

    /// Returns once it is over. Cancelling it changes nothing.
    pub(crate) async fn over(&self) -> Over {
        let Some(until) = self.until else {
            self.farewell.requested().await;
            return Over::Farewell;
        };
        tokio::select! {
            () = self.farewell.requested() => Over::Farewell,
            () = sleep_until(until) => Over::Expired,
        }
    }
}
