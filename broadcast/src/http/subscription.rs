//! A subscriber over HTTP/2, whose frames an async task sends. Over HTTP/2 many streams share one socket, which hyper
//! owns, so a shard cannot write to it.

use tokio::sync::watch;

use crate::fanout::deliveries::Deliveries;
use crate::frame::encoded::EncodedFrame;
use crate::hub::subscriber::Subscriber;

/// The stream of the frames of one subscriber.
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

    /// Returns whether new counts reach this node, as `hello` reports.
    pub(super) fn is_counting(&self) -> bool {
        self.subscriber.counting
    }

    /// Waits for the next frame and returns it. This function is cancel safe: no frame is lost if the future is
    /// dropped.
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
            // The mark is cleared before the room is read, so that a change after the read causes another notification.
            self.changed.mark_unchanged();
            let next = cursor.next(&entry.state());
            match next {
                Some(next) => {
                    self.deliveries.count(&next, *found);
                    return next.frame(EncodedFrame::clone);
                }
                // The result is ignored: the sender is a part of the room's entry, which this subscriber keeps alive.
                None => drop(self.changed.changed().await),
            }
        }
    }
}
