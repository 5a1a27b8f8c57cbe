//! Reactions that wait for the next flush, and the bound on all that wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use emostream_log::{EventClock, LogError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    buffer::clock::Clock,
    buffer::packed::{Packed, Taken},
};

/// Tells a waiting request what became of its reactions.
pub(crate) type Stored = oneshot::Sender<Result<(), LogError>>;

/// The bounded buffer.
pub(crate) struct Buffer {
    clock: Clock,
    places: Arc<Semaphore>,
    capacity: u32,
    flush_count: usize,
    full_flush: Notify,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    cargo: Cargo,
    closed: bool,
}

/// What one flush takes.
#[derive(Debug, Default)]
pub(crate) struct Cargo {
    /// The accepted reactions, in the order of their times.
    pub(crate) accepted: Packed,
    /// Their places in the buffer, free again when this is dropped.
    pub(crate) places: Option<OwnedSemaphorePermit>,
    /// Those whose senders wait until they are stored, a request each.
    pub(crate) parcels: Vec<Parcel>,
    /// All of them.
    pub(crate) count: usize,
}

/// The reactions of a request that waits until they are stored: all of them or none.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) reactions: Packed,
    pub(crate) places: Option<OwnedSemaphorePermit>,
    pub(crate) stored: Stored,
}

/// Room in the buffer for the reactions of one request.
#[derive(Debug)]
pub(crate) struct Reservation(OwnedSemaphorePermit);

/// The buffer takes no more: the service is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Buffer {
    pub(crate) fn new(capacity: u32, flush_count: usize, clock: EventClock) -> Self {
        Self {
            clock: Clock::new(clock),
            places: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
            flush_count,
            full_flush: Notify::new(),
            pending: Mutex::default(),
        }
    }

    /// Whether there is room for `reactions` now: what has none need not be read.
    pub(crate) fn has_room(&self, reactions: u32) -> bool {
        self.places.available_permits() >= reactions as usize
    }

    /// Room for `reactions`; `None` if there is not so much. Never waits.
    pub(crate) fn reserve(&self, reactions: u32) -> Option<Reservation> {
        let places = self.places.clone().try_acquire_many_owned(reactions);
        places.ok().map(Reservation)
    }

    /// Adds reactions, received now, in room reserved for them; what they leave of it is given back.
    pub(crate) fn add(
        &self,
        taken: Vec<Taken<'_>>,
        mut room: Reservation,
        stored: Option<Stored>,
    ) -> Result<(), Closed> {
        debug_assert!(taken.len() <= room.0.num_permits());
        let mut pending = self.pending();
        if pending.closed {
            return Err(Closed);
        }
        // Under the lock, so that times do not go back within a flush or from one to the next, unless the clock
        // was far ahead.
        let now_ms = self.clock.now_ms();
        let cargo = &mut pending.cargo;
        let places = room.0.split(taken.len());
        cargo.count += taken.len();
        if let Some(stored) = stored {
            let mut reactions = Packed::default();
            reactions.extend(taken.into_iter(), now_ms);
            cargo.parcels.push(Parcel {
                reactions,
                places,
                stored,
            });
        } else {
            cargo.accepted.extend(taken.into_iter(), now_ms);
            match (&mut cargo.places, places) {
                (Some(held), Some(places)) => held.merge(places),
                (held, places) => *held = held.take().or(places),
            }
        }
        if cargo.count >= self.flush_count {
            self.full_flush.notify_one();
        }
        Ok(())
    }

    /// Takes all that is pending, and the time: none of it is later, nothing added after it earlier, unless the
    /// clock was far ahead. What
    /// is accepted next goes into the memory of what was flushed last.
    pub(crate) fn take(&self, flushed: Packed) -> (Cargo, u64) {
        let accepted = flushed.emptied(self.flush_count);
        let mut pending = self.pending();
        let next = Cargo {
            accepted,
            ..Cargo::default()
        };
        let cargo = std::mem::replace(&mut pending.cargo, next);
        (cargo, self.clock.now_ms())
    }

    /// Takes no more from now on.
    pub(crate) fn close(&self) {
        self.pending().closed = true;
    }

    /// Returns when there is enough for a flush.
    pub(crate) async fn full_flush(&self) {
        self.full_flush.notified().await;
    }

    /// Returns when nothing waits and nothing is unacknowledged.
    pub(crate) async fn empty(&self) {
        // The semaphore is never closed.
        let _ = self.places.acquire_many(self.capacity).await;
    }

    /// The time that a reaction added now would get.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The most places.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many places are taken: reserved, pending, or not yet acknowledged.
    pub(crate) fn fill(&self) -> usize {
        self.capacity as usize - self.places.available_permits().min(self.capacity as usize)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use crate::buffer::packed::tests::taken;

    #[test]
    fn room_is_held_until_the_cargo_is_dropped() {
        let buffer = Buffer::new(10, 100, EventClock::host());
        let room = buffer.reserve(8).unwrap();
        assert!(
            buffer.reserve(3).is_none(),
            "room is reserved before anything is in it"
        );
        buffer.add(taken(5), room, None).unwrap();
        assert_eq!(buffer.fill(), 5, "what is not needed is given back");
        let (cargo, _) = buffer.take(Packed::default());
        assert_eq!(cargo.accepted.len(), 5);
        assert_eq!(buffer.fill(), 5, "taken is not yet acknowledged");
        assert!(buffer.reserve(6).is_none());
        drop(cargo);
        assert!(buffer.reserve(10).is_some());
    }

    #[test]
    fn times_never_go_back_over_flushes() {
        let buffer = Buffer::new(1000, 1000, EventClock::host());
        let mut last_ms = 0;
        for _ in 0..50 {
            buffer
                .add(taken(2), buffer.reserve(2).unwrap(), None)
                .unwrap();
            buffer
                .add(taken(1), buffer.reserve(1).unwrap(), None)
                .unwrap();
            let (cargo, now_ms) = buffer.take(Packed::default());
            for reaction in cargo.accepted.iter() {
                assert!((last_ms..=now_ms).contains(&reaction.at_ms));
                last_ms = reaction.at_ms;
            }
            last_ms = now_ms;
        }
    }

    #[tokio::test]
    async fn enough_for_a_flush_is_told_at_once() {
        let buffer = Buffer::new(100, 3, EventClock::host());
        buffer
            .add(taken(2), buffer.reserve(2).unwrap(), None)
            .unwrap();
        let early = tokio::time::timeout(std::time::Duration::ZERO, buffer.full_flush());
        assert!(early.await.is_err());
        buffer
            .add(taken(1), buffer.reserve(1).unwrap(), None)
            .unwrap();
        buffer.full_flush().await;
    }

    #[test]
    fn a_closed_buffer_takes_no_more() {
        let buffer = Buffer::new(10, 10, EventClock::host());
        buffer.close();
        let room = buffer.reserve(1).unwrap();
        assert_eq!(buffer.add(taken(1), room, None), Err(Closed));
        assert_eq!(buffer.fill(), 0);
    }
}
