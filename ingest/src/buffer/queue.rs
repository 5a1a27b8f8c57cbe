//! The bounded buffer of accepted reactions. It contains the reactions that wait for the next flush. Reactions in
//! flight also count towards its capacity.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emostream_log::{EventClock, LogError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    buffer::clock::Clock,
    buffer::packed::{AdmittedReaction, Packed},
};

/// Notifies a waiting request that its reactions are stored, or of the error of the log.
pub(crate) type StoredSender = oneshot::Sender<Result<(), LogError>>;

/// The bounded buffer. Each reaction holds a permit, from the reservation until the log has acknowledged the reaction
/// or has finally refused it.
pub(crate) struct Buffer {
    clock: Clock,
    permits: Arc<Semaphore>,
    capacity: u32,
    flush_count: usize,
    flush_due: Notify,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    batch: PendingBatch,
    closed: bool,
}

/// The reactions of the next flush.
#[derive(Debug, Default)]
pub(crate) struct PendingBatch {
    /// The reactions of requests that already got their response (202), in the order of their times.
    pub(crate) accepted: Packed,
    /// The permits of `accepted`.
    pub(crate) permits: Option<OwnedSemaphorePermit>,
    /// The reactions of requests that wait until the log has stored them.
    pub(crate) awaited: Vec<AwaitedBatch>,
    /// The number of reactions in `accepted` and `awaited`.
    pub(crate) count: usize,
}

/// The reactions of a request that waits until the log has stored them. These reactions share one record, so either all
/// of them are stored or none.
#[derive(Debug)]
pub(crate) struct AwaitedBatch {
    pub(crate) reactions: Packed,
    pub(crate) permits: Option<OwnedSemaphorePermit>,
    pub(crate) stored: StoredSender,
}

/// Permits for the reactions of one request.
#[derive(Debug)]
pub(crate) struct Reservation(OwnedSemaphorePermit);

/// The error of a buffer that is closed because the service is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Buffer {
    pub(crate) fn new(capacity: u32, flush_count: usize, clock: EventClock) -> Self {
        Self {
            clock: Clock::new(clock),
            permits: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
            flush_count,
            flush_due: Notify::new(),
            pending: Mutex::default(),
        }
    }

    /// Returns whether `reactions` permits are free. If not, the body of the request need not be read.
    pub(crate) fn has_capacity(&self, reactions: u32) -> bool {
        self.permits.available_permits() >= reactions as usize
    }

    /// Reserves `reactions` permits; `None` if fewer are free. Does not wait.
    pub(crate) fn reserve(&self, reactions: u32) -> Option<Reservation> {
        let permits = self.permits.clone().try_acquire_many_owned(reactions);
        permits.ok().map(Reservation)
    }

    /// Adds reactions with the current time as their event time. They hold one permit each, and the remaining permits
    /// of `reservation` are released.
    pub(crate) fn add(
        &self,
        admitted: Vec<AdmittedReaction<'_>>,
        mut reservation: Reservation,
        stored: Option<StoredSender>,
    ) -> Result<(), Closed> {
        debug_assert!(admitted.len() <= reservation.0.num_permits());
        let mut pending = self.pending();
        if pending.closed {
            return Err(Closed);
        }
        // The time is read under the lock, so that times do not go back within a flush or from one flush to the next,
        // unless the clock was far ahead and is corrected.
        let now_ms = self.clock.now_ms();
        let batch = &mut pending.batch;
        let permits = reservation.0.split(admitted.len());
        batch.count += admitted.len();
        if let Some(stored) = stored {
            let mut reactions = Packed::default();
            reactions.extend(admitted.into_iter(), now_ms);
            batch.awaited.push(AwaitedBatch {
                reactions,
                permits,
                stored,
            });
        } else {
            batch.accepted.extend(admitted.into_iter(), now_ms);
            match (&mut batch.permits, permits) {
                (Some(held), Some(permits)) => held.merge(permits),
                (held, permits) => *held = held.take().or(permits),
            }
        }
        if batch.count >= self.flush_count {
            self.flush_due.notify_one();
        }
        Ok(())
    }

    /// Removes and returns all pending reactions, with the time of the flush. None of them is later than this time, and
    /// no reaction of the next flush is earlier, unless the clock was far ahead and is corrected. `flushed` has the
    /// reactions of the previous flush, and its memory is used for the next reactions.
    pub(crate) fn drain(&self, flushed: Packed) -> (PendingBatch, u64) {
        let accepted = flushed.cleared(self.flush_count);
        let mut pending = self.pending();
        let next = PendingBatch {
            accepted,
            ..PendingBatch::default()
        };
        let batch = std::mem::replace(&mut pending.batch, next);
        (batch, self.clock.now_ms())
    }

    /// Refuses all further reactions.
    pub(crate) fn close(&self) {
        self.pending().closed = true;
    }

    /// Waits until enough reactions for a flush are pending.
    pub(crate) async fn flush_due(&self) {
        self.flush_due.notified().await;
    }

    /// Waits until no reaction is pending or unacknowledged.
    pub(crate) async fn wait_until_empty(&self) {
        // The result is ignored, since the semaphore is never closed.
        let _ = self.permits.acquire_many(self.capacity).await;
    }

    /// Returns the event time that a reaction added now would get.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Returns the maximum number of reactions in the buffer.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Returns the number of permits in use: for reserved, pending and unacknowledged reactions.
    pub(crate) fn used(&self) -> usize {
        self.capacity as usize - self.permits.available_permits().min(self.capacity as usize)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use crate::buffer::packed::tests::admitted;

    #[test]
    fn permits_are_held_until_the_batch_is_dropped() {
        let buffer = Buffer::new(10, 100, EventClock::host());
        let reservation = buffer.reserve(8).unwrap();
        assert!(
            buffer.reserve(3).is_none(),
            "permits are reserved before reactions are added"
        );
        buffer.add(admitted(5), reservation, None).unwrap();
        assert_eq!(buffer.used(), 5, "unused permits are released");
        let (batch, _) = buffer.drain(Packed::default());
        assert_eq!(batch.accepted.len(), 5);
        assert_eq!(buffer.used(), 5, "drained is not yet acknowledged");
        assert!(buffer.reserve(6).is_none());
        drop(batch);
        assert!(buffer.reserve(10).is_some());
    }

    #[test]
    fn times_never_go_back_over_flushes() {
        let buffer = Buffer::new(1000, 1000, EventClock::host());
        let mut last_ms = 0;
        for _ in 0..50 {
            buffer
                .add(admitted(2), buffer.reserve(2).unwrap(), None)
                .unwrap();
            buffer
                .add(admitted(1), buffer.reserve(1).unwrap(), None)
                .unwrap();
            let (batch, now_ms) = buffer.drain(Packed::default());
            for reaction in batch.accepted.iter() {
                assert!((last_ms..=now_ms).contains(&reaction.at_ms));
                last_ms = reaction.at_ms;
            }
            last_ms = now_ms;
        }
    }

    #[tokio::test]
    async fn enough_reactions_for_a_flush_notify_at_once() {
        let buffer = Buffer::new(100, 3, EventClock::host());
        buffer
            .add(admitted(2), buffer.reserve(2).unwrap(), None)
            .unwrap();
        let early = tokio::time::timeout(std::time::Duration::ZERO, buffer.flush_due());
        assert!(early.await.is_err());
        buffer
            .add(admitted(1), buffer.reserve(1).unwrap(), None)
            .unwrap();
        buffer.flush_due().await;
    }

    #[test]
    fn a_closed_buffer_refuses_reactions() {
        let buffer = Buffer::new(10, 10, EventClock::host());
        buffer.close();
        let reservation = buffer.reserve(1).unwrap();
        assert_eq!(buffer.add(admitted(1), reservation, None), Err(Closed));
        assert_eq!(buffer.used(), 0);
    }
}
