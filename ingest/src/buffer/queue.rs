//! The bounded buffer of accepted reactions. It contains the reactions that wait for the next flush. Reactions in
//! flight also count towards its capacity.
//!
//! ```text
//!            the first request: it is flushed at once
//!   quiet ────────────────────────────────────────────▶ active     reactions wait for the next flush
//!         ◀────────────────────────────────────────────
//!            no reaction for an interval
//! ```

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use emostream_log::{EventClock, LogError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{
    buffer::clock::Clock,
    buffer::packed::{AdmittedReaction, Packed},
};

/// Notifies a waiting request that the log has stored its reactions, or has returned an error.
pub(crate) type StoredSender = oneshot::Sender<Result<(), LogError>>;

/// The bounded buffer. Each reaction holds a permit, from the reservation until the log has acknowledged the reaction
/// or the ingest has given up storing it.
pub(crate) struct Buffer {
    clock: Clock,
    permits: Arc<Semaphore>,
    capacity: u32,
    early: EarlyFlush,
    first_due: Notify,
    flush_due: Notify,
    pending: Mutex<Pending>,
}

/// The conditions for a flush before the interval of flushes ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EarlyFlush {
    /// Number of pending reactions that triggers a flush.
    pub(crate) count: usize,
    /// Time without reactions after which the next request is flushed at once. It is the interval of flushes, so there
    /// is at most one such flush in an interval.
    pub(crate) quiet: Duration,
    /// Maximum number of reactions of a request that is flushed at once, so that they fit in one record.
    pub(crate) first_reactions: usize,
}

struct Pending {
    /// The reactions of the first request after a quiet interval. They are flushed at once, without `batch`.
    first: Option<PendingBatch>,
    batch: PendingBatch,
    /// The time when the newest reactions were added; at first, the time of the start.
    newest_ms: u64,
    closed: bool,
}

/// The flush before the end of the interval that added reactions make due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// The flush of the first request after a quiet interval.
    First,
    /// The flush that is due because enough reactions are pending.
    Count,
}

/// All reactions that are flushed at the end of an interval.
#[derive(Debug)]
pub(crate) struct Drained {
    /// The reactions of the first request after a quiet interval, if they are not flushed yet. Every reaction of
    /// `batch` has the same time as these reactions, or a later one.
    pub(crate) first: Option<PendingBatch>,
    pub(crate) batch: PendingBatch,
    /// The time of the flush. No reaction of this flush is later, and no reaction of the next flush is earlier. The
    /// exception is a clock that was far ahead and is corrected.
    pub(crate) now_ms: u64,
}

/// The reactions of a flush.
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

/// The error if the buffer is closed, because the service is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Buffer {
    pub(crate) fn new(capacity: u32, early: EarlyFlush, clock: EventClock) -> Self {
        let clock = Clock::new(clock);
        let pending = Mutex::new(Pending::new(clock.now_ms()));
        Self {
            clock,
            permits: Arc::new(Semaphore::new(capacity as usize)),
            capacity,
            early,
            first_due: Notify::new(),
            flush_due: Notify::new(),
            pending,
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
        // The time is read under the lock, so that times do not go back within a flush or from one flush to the next.
        // The exception is a clock that was far ahead and is corrected.
        let now_ms = self.clock.now_ms();
        let permits = reservation.0.split(admitted.len());
        match pending.add(admitted, permits, stored, &self.early, now_ms) {
            Some(Due::First) => self.first_due.notify_one(),
            Some(Due::Count) => self.flush_due.notify_one(),
            None => {}
        }
        Ok(())
    }

    /// Removes and returns the reactions of the first request after a quiet interval, with the time of their flush;
    /// `None` if they are already flushed.
    pub(crate) fn drain_first(&self) -> Option<(PendingBatch, u64)> {
        let mut pending = self.pending();
        let first = pending.first.take()?;
        Some((first, self.clock.now_ms()))
    }

    /// Removes and returns all pending reactions. `flushed` has the reactions of the previous flush, and its memory is
    /// used for the next reactions.
    pub(crate) fn drain(&self, flushed: Packed) -> Drained {
        let accepted = flushed.cleared(self.early.count);
        let mut pending = self.pending();
        let next = PendingBatch {
            accepted,
            ..PendingBatch::default()
        };
        Drained {
            first: pending.first.take(),
            batch: std::mem::replace(&mut pending.batch, next),
            now_ms: self.clock.now_ms(),
        }
    }

    /// Refuses all further reactions.
    pub(crate) fn close(&self) {
        self.pending().closed = true;
    }

    /// Waits until a first request after a quiet interval has to be flushed. The flush may already have happened when
    /// this function returns.
    pub(crate) async fn first_due(&self) {
        self.first_due.notified().await;
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

impl Pending {
    fn new(now_ms: u64) -> Self {
        Self {
            first: None,
            batch: PendingBatch::default(),
            newest_ms: now_ms,
            closed: false,
        }
    }

    /// Adds the reactions of a request that was received at `now_ms`. Returns the early flush that is due now.
    fn add(
        &mut self,
        admitted: Vec<AdmittedReaction<'_>>,
        permits: Option<OwnedSemaphorePermit>,
        stored: Option<StoredSender>,
        early: &EarlyFlush,
        now_ms: u64,
    ) -> Option<Due> {
        let is_first = self.is_first(admitted.len(), early, now_ms);
        self.newest_ms = now_ms;
        if is_first {
            let first = self.first.insert(PendingBatch::default());
            first.add(admitted, permits, stored, now_ms);
            return Some(Due::First);
        }
        self.batch.add(admitted, permits, stored, now_ms);
        (self.batch.count >= early.count).then_some(Due::Count)
    }

    /// Returns whether a request of `reactions` reactions is the first one after a quiet interval. If the flusher is
    /// late, older reactions may still be pending after the interval; then this request waits for the flush of the
    /// older reactions, since the log gets reactions in the order of their times.
    fn is_first(&self, reactions: usize, early: &EarlyFlush, now_ms: u64) -> bool {
        let quiet = Duration::from_millis(now_ms.saturating_sub(self.newest_ms));
        let is_empty = self.first.is_none() && self.batch.count == 0;
        quiet >= early.quiet && is_empty && reactions <= early.first_reactions
    }
}

impl PendingBatch {
    fn add(
        &mut self,
        admitted: Vec<AdmittedReaction<'_>>,
        permits: Option<OwnedSemaphorePermit>,
        stored: Option<StoredSender>,
        now_ms: u64,
    ) {
        self.count += admitted.len();
        if let Some(stored) = stored {
            let mut reactions = Packed::default();
            reactions.extend(admitted.into_iter(), now_ms);
            self.awaited.push(AwaitedBatch {
                reactions,
                permits,
                stored,
            });
            return;
        }
        self.accepted.extend(admitted.into_iter(), now_ms);
        match (&mut self.permits, permits) {
            (Some(held), Some(permits)) => held.merge(permits),
            (held, permits) => *held = held.take().or(permits),
        }
    }
}

#[cfg(test)]
impl EarlyFlush {
    /// Returns the conditions of a flush of `count` reactions, without early flushes of first requests.
    pub(crate) fn of_count(count: usize) -> Self {
        Self {
            count,
            quiet: Duration::MAX,
            first_reactions: usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::buffer::packed::tests::admitted;
    use proptest::{collection::vec, prelude::*};

    /// Returns the indexes of the requests that are the first ones after a quiet interval: neither an earlier request
    /// nor the start, at time 0, is less than an interval before them. This function compares all pairs of requests,
    /// not only neighbours.
    fn expected_first(requests: &[(u64, usize)], interval_ms: u64) -> Vec<usize> {
        let is_first = |index: &usize| {
            let earlier = requests[..*index].iter().map(|(at_ms, _)| *at_ms);
            let near = |at_ms: u64| requests[*index].0 - at_ms < interval_ms;
            !earlier.chain([0]).any(near)
        };
        (0..requests.len()).filter(is_first).collect()
    }

    proptest! {
        #[test]
        fn only_the_first_request_after_a_quiet_interval_is_flushed_at_once(
            interval_ms in 1_u64..700,
            phase in any::<proptest::sample::Index>(),
            gaps in vec((prop_oneof![0_u64..20, 0_u64..1500], 1_usize..6), 0..60),
            is_awaited in any::<bool>(),
        ) {
            let early = EarlyFlush {
                count: usize::MAX,
                quiet: Duration::from_millis(interval_ms),
                first_reactions: usize::MAX,
            };
            let mut at_ms = 0;
            let requests: Vec<(u64, usize)> = gaps.iter().map(|(gap_ms, reactions)| {
                at_ms += gap_ms;
                (at_ms, *reactions)
            }).collect();
            let mut pending = Pending::new(0);
            // The flushes at the ends of intervals. The first interval may end at any time after the start.
            let mut tick_ms = 1 + phase.index(interval_ms as usize) as u64;
            let (mut at_once, mut waiting) = (Vec::new(), Vec::new());
            for (index, (at_ms, reactions)) in requests.iter().enumerate() {
                while tick_ms <= *at_ms {
                    let sent: usize = waiting.drain(..).map(|(received_ms, reactions): (u64, usize)| {
                        assert!(tick_ms - received_ms <= interval_ms, "no reaction waits longer");
                        reactions
                    }).sum();
                    prop_assert_eq!(std::mem::take(&mut pending.batch).count, sent);
                    tick_ms += interval_ms;
                }
                let stored = is_awaited.then(|| tokio::sync::oneshot::channel().0);
                match pending.add(admitted(*reactions), None, stored, &early, *at_ms) {
                    Some(Due::First) => {
                        // The flusher removes the reactions of the first request at once.
                        prop_assert_eq!(pending.first.take().unwrap().count, *reactions);
                        at_once.push(index);
                    }
                    due => {
                        prop_assert_eq!(due, None);
                        waiting.push((*at_ms, *reactions));
                    }
                }
            }
            prop_assert_eq!(&at_once, &expected_first(&requests, interval_ms));
            let times: Vec<u64> = at_once.iter().map(|index| requests[*index].0).collect();
            let apart = times.windows(2).all(|two| two[1] - two[0] >= interval_ms);
            prop_assert!(apart, "at most one in an interval: {:?}", times);
        }
    }

    #[test]
    fn a_first_request_waits_if_it_needs_several_records_or_others_are_pending() {
        let early = EarlyFlush {
            count: 4,
            quiet: Duration::from_millis(500),
            first_reactions: 3,
        };
        let mut pending = Pending::new(0);
        let mut add =
            |reactions, at_ms| pending.add(admitted(reactions), None, None, &early, at_ms);
        assert_eq!(
            add(1, 499),
            None,
            "an interval has not passed since the start"
        );
        assert_eq!(add(1, 1000), None, "the first one is still pending");
        assert_eq!(add(4, 1001), Some(Due::Count));
        pending.batch = PendingBatch::default();
        let mut add =
            |reactions, at_ms| pending.add(admitted(reactions), None, None, &early, at_ms);
        assert_eq!(add(3, 1501), Some(Due::First));
        assert_eq!(
            add(3, 2001),
            None,
            "the flusher has not taken the first one"
        );
        let mut late = Pending::new(0);
        assert_eq!(
            late.add(admitted(4), None, None, &early, 500),
            Some(Due::Count)
        );
        assert_eq!(
            late.add(admitted(1), None, None, &early, 400),
            Some(Due::Count),
            "the clock was set back"
        );
    }

    #[test]
    fn a_first_request_that_the_flusher_has_not_taken_is_drained_with_the_others() {
        let early = EarlyFlush {
            quiet: Duration::ZERO,
            ..EarlyFlush::of_count(100)
        };
        let buffer = Buffer::new(10, early, EventClock::host());
        for count in [1, 2, 3] {
            let reservation = buffer.reserve(count as u32).unwrap();
            buffer.add(admitted(count), reservation, None).unwrap();
        }
        let Drained { first, batch, .. } = buffer.drain(Packed::default());
        assert_eq!((first.unwrap().count, batch.count), (1, 5));
        assert!(buffer.drain_first().is_none(), "it is flushed once");
    }

    #[test]
    fn permits_are_held_until_the_batch_is_dropped() {
        let buffer = Buffer::new(10, EarlyFlush::of_count(100), EventClock::host());
        let reservation = buffer.reserve(8).unwrap();
        assert!(
            buffer.reserve(3).is_none(),
            "permits are reserved before reactions are added"
        );
        buffer.add(admitted(5), reservation, None).unwrap();
        assert_eq!(buffer.used(), 5, "unused permits are released");
        let Drained { batch, .. } = buffer.drain(Packed::default());
        assert_eq!(batch.accepted.len(), 5);
        assert_eq!(buffer.used(), 5, "drained is not yet acknowledged");
        assert!(buffer.reserve(6).is_none());
        drop(batch);
        assert!(buffer.reserve(10).is_some());
    }

    #[test]
    fn times_never_go_back_over_flushes() {
        let buffer = Buffer::new(1000, EarlyFlush::of_count(1000), EventClock::host());
        let mut last_ms = 0;
        for _ in 0..50 {
            buffer
                .add(admitted(2), buffer.reserve(2).unwrap(), None)
                .unwrap();
            buffer
                .add(admitted(1), buffer.reserve(1).unwrap(), None)
                .unwrap();
            let Drained { batch, now_ms, .. } = buffer.drain(Packed::default());
            for reaction in batch.accepted.iter() {
                assert!((last_ms..=now_ms).contains(&reaction.at_ms));
                last_ms = reaction.at_ms;
            }
            last_ms = now_ms;
        }
    }

    #[tokio::test]
    async fn enough_reactions_for_a_flush_notify_at_once() {
        let buffer = Buffer::new(100, EarlyFlush::of_count(3), EventClock::host());
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
        let buffer = Buffer::new(10, EarlyFlush::of_count(10), EventClock::host());
        buffer.close();
        let reservation = buffer.reserve(1).unwrap();
        assert_eq!(buffer.add(admitted(1), reservation, None), Err(Closed));
        assert_eq!(buffer.used(), 0);
    }
}
