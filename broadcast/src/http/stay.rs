//! How long a subscriber may stay.

use std::time::Instant;

use emostream_http::Shutdown;
use tokio::time::sleep_until;

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
    /// `until` its token expires, `None` for ever.
    pub(crate) fn new(farewell: Shutdown, until: Option<Instant>) -> Self {
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
            () = sleep_until(until.into()) => Over::Expired,
        }
    }
}
