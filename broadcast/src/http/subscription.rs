//! A subscriber as an async task waits for its frames: HTTP/2 carries many streams on one socket, which
//! is hyper's, and so no shard's.

use std::time::Instant;

use emostream_http::Shutdown;
use tokio::{sync::watch, time::sleep_until};

use crate::{fanout::deliveries::Deliveries, frame::encoded::Encoded, hub::subscriber::Subscriber};

/// See the module.
pub(crate) struct Subscription {
    subscriber: Subscriber,
    changed: watch::Receiver<()>,
    deliveries: Deliveries,
    hello: Option<Encoded>,
}

impl Subscription {
    pub(crate) fn new(subscriber: Subscriber, hello: Encoded, deliveries: Deliveries) -> Self {
        Self {
            changed: subscriber.entry.watch(),
            subscriber,
            deliveries,
            hello: Some(hello),
        }
    }

    /// The next frame, as soon as there is one. Cancelling it loses none.
    pub(crate) async fn next(&mut self) -> Encoded {
        if let Some(hello) = self.hello.take() {
            return hello;
        }
        let Subscriber {
            entry,
            cursor,
            found,
            ..
        } = &mut self.subscriber;
        loop {
            // Marked as seen before looking: what changes meanwhile wakes it again.
            self.changed.mark_unchanged();
            let next = cursor.next(&entry.state());
            match next {
                Some(next) => {
                    self.deliveries.count(&next, *found);
                    return next.frame(Encoded::clone);
                }
                // The sender lives in the entry that this subscriber holds.
                None => drop(self.changed.changed().await),
            }
        }
    }
}

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
