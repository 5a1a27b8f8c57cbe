//! A subscriber whose frames an async task waits for: over HTTP/2 many streams share a socket, which hyper owns, so no
//! shard can.

use tokio::sync::watch;

use crate::fanout::deliveries::Deliveries;
use crate::frame::encoded::EncodedFrame;
use crate::hub::subscriber::Subscriber;

/// The frames of one subscriber, one after another.
pub(super) struct Subscription {
    subscriber: Subscriber,
    changed: watch::Receiver<()>,
    deliveries: Deliveries,
    hello: Option<EncodedFrame>,
}

impl Subscription {
    pub(super) fn new(subscriber: Subscriber, hello: EncodedFrame, deliveries: Deliveries) -> Self {
        Self {
            changed: subscriber.entry.watch(),
            subscriber,
            deliveries,
            hello: Some(hello),
        }
    }

    /// The next frame, as soon as there is one. No frame is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> EncodedFrame {
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
            // Before the room is read: a change that follows notifies again.
            self.changed.mark_unchanged();
            let next = cursor.next(&entry.state());
            match next {
                Some(next) => {
                    self.deliveries.count(&next, *found);
                    return next.frame(EncodedFrame::clone);
                }
                // The sender lives in the entry that this subscriber holds.
                None => drop(self.changed.changed().await),
            }
        }
    }
}
