//! News on its way to the relays below: encoded once, whoever receives it.
//!
//! ```text
//!  feed ─ pass ─▶ pending ─ seal ─▶ ring of batches ◀─ a cursor a relay
//! ```
//!
//! A relay has no queue here, only a cursor: a slow one costs nothing but its own socket, and when the ring
//! has moved on without it, it gets the rooms as they stand once more.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use emostream_model::{RelayBatch, RelayUpdate};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::metrics::Metrics;

/// The most bytes of the ring, in batches. A relay may fall behind by as much: with 1000 rooms at 4 Hz
/// that is a minute, and as long may a first snapshot take.
const RING_BYTES: usize = 32 << 20;

/// A batch this large goes out at once, so that a relay takes in what has come while its upstream is still
/// taking in the rest: when 1000 rooms change at one moment, some 130 of them are a batch. To send one costs
/// little beside what it holds.
const BATCH_BYTES: usize = 16 << 10;

/// How long news is held back for more to come along, a relay: a send costs about 8 µs, so sends take less
/// than a tenth of a core, however many relays there are and however finely news drips in. What comes after
/// a pause is not held back.
const HOLD_A_RELAY: Duration = Duration::from_micros(100);

/// What a live tally may be late by for that.
const LONGEST_HOLD: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(crate) struct UpdateLog {
    pending: Mutex<Pending>,
    ring: Mutex<Ring>,
    /// The number of the batch that will be sealed next.
    sealed: watch::Sender<u64>,
    /// Something is pending.
    bell: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Pending {
    /// Without relays nothing is encoded.
    relays: u32,
    batch: RelayBatch,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Bytes>,
    bytes: usize,
    /// The number of the oldest.
    first: u64,
}

/// The ring has moved on without a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TruncatedCursor;

impl UpdateLog {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            pending: Mutex::default(),
            ring: Mutex::default(),
            sealed: watch::Sender::new(0),
            bell: Notify::new(),
            metrics,
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `apply` take the update in, and passes it on if it is news.
    ///
    /// A relay joins before or after this, never in between: then it finds the update in the rooms, or gets
    /// it passed on.
    pub(crate) fn pass<E>(
        &self,
        origin_us: u64,
        update: RelayUpdate,
        apply: impl FnOnce(RelayUpdate) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let mut pending = self.pending();
        let copy = (pending.relays > 0).then(|| update.clone());
        let news = apply(update)?;
        if let Some(update) = copy.filter(|_| news) {
            pending.batch.push(origin_us, &update);
            if pending.batch.bytes() >= BATCH_BYTES {
                self.seal(&mut pending);
            }
        }
        Ok(news)
    }

    /// All that comes at this moment was passed: it may go out.
    pub(crate) fn flush(&self) {
        if !self.pending().batch.is_empty() {
            self.bell.notify_one();
        }
    }

    /// Seals what is flushed, as long as it is polled.
    pub(crate) async fn run(&self) {
        let mut last = Instant::now();
        loop {
            self.bell.notified().await;
            let hold = HOLD_A_RELAY * self.pending().relays;
            sleep_until(last + hold.min(LONGEST_HOLD)).await;
            self.seal(&mut self.pending());
            last = Instant::now();
        }
    }

    fn seal(&self, pending: &mut Pending) {
        let Some(batch) = pending.batch.take() else {
            return;
        };
        let next = {
            let mut ring = self.ring();
            ring.bytes += batch.len();
            ring.batches.push_back(Bytes::from(batch));
            while ring.bytes > RING_BYTES && ring.batches.len() > 1 {
                ring.drop_oldest();
            }
            ring.first + ring.batches.len() as u64
        };
        self.metrics.relay_batches.inc();
        self.sealed.send_replace(next);
    }

    /// A relay is there from now on.
    pub(crate) fn join(&self) {
        self.pending().relays += 1;
    }

    /// One is there no longer; the last one takes the ring along.
    pub(crate) fn leave(&self) {
        let mut pending = self.pending();
        pending.relays -= 1;
        if pending.relays == 0 {
            pending.batch = RelayBatch::default();
            let mut ring = self.ring();
            while !ring.batches.is_empty() {
                ring.drop_oldest();
            }
        }
    }

    /// Where one that has joined goes on who has the rooms as they stand.
    pub(crate) fn cursor(&self) -> u64 {
        let ring = self.ring();
        ring.first + ring.batches.len() as u64
    }

    /// The batches from `cursor` on; it moves behind them.
    pub(crate) fn batches(&self, cursor: &mut u64) -> Result<Vec<Bytes>, TruncatedCursor> {
        let ring = self.ring();
        let passed = cursor.checked_sub(ring.first).ok_or(TruncatedCursor)?;
        let batches = ring.batches.iter().skip(passed as usize);
        let batches: Vec<Bytes> = batches.cloned().collect();
        *cursor += batches.len() as u64;
        Ok(batches)
    }

    /// Tells when there is more.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.sealed.subscribe()
    }
}

impl Ring {
    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{ReadRange, Room, RoomSnapshot};
    use prometheus::Registry;

    fn outlet() -> UpdateLog {
        UpdateLog::new(Metrics::register(&Registry::new()).unwrap())
    }

    fn news(bytes: usize) -> RelayUpdate {
        RelayUpdate::Room(RoomSnapshot {
            room: Room::default(),
            floor: None,
            newest: None,
            finals: vec!["x".repeat(bytes)],
            totals: Vec::new(),
            live: Vec::new(),
            trending: None,
        })
    }

    fn pass(outlet: &UpdateLog, update: RelayUpdate, news: bool) {
        let taken = outlet.pass(1, update, |_| Ok::<bool, ()>(news));
        assert_eq!(taken, Ok(news));
    }

    #[test]
    fn without_relays_nothing_is_kept() {
        let outlet = outlet();
        pass(&outlet, news(BATCH_BYTES), true);
        assert_eq!(outlet.cursor(), 0);
        outlet.join();
        pass(&outlet, news(BATCH_BYTES), true);
        assert_eq!(outlet.cursor(), 1);
        outlet.leave();
        assert_eq!(outlet.ring().bytes, 0);
        assert_eq!(outlet.cursor(), 1);
    }

    #[test]
    fn what_is_known_already_is_not_passed_on() {
        let outlet = outlet();
        outlet.join();
        pass(&outlet, news(BATCH_BYTES), false);
        assert!(outlet.pending().batch.is_empty());
        let _ = outlet.pass(1, news(1), |_| Err(()));
        assert!(outlet.pending().batch.is_empty());
    }

    #[test]
    fn the_ring_is_bounded_and_who_falls_behind_it_is_told() {
        let outlet = outlet();
        outlet.join();
        let (mut slow, mut quick) = (outlet.cursor(), outlet.cursor());
        let mut received = 0;
        let piece = 1 << 20;
        for _ in 0..2 * RING_BYTES / piece {
            pass(&outlet, news(piece), true);
            received += outlet.batches(&mut quick).unwrap().len();
            assert!(outlet.ring().bytes <= RING_BYTES);
        }
        assert_eq!(received, 2 * RING_BYTES / piece);
        assert_eq!(outlet.batches(&mut slow), Err(TruncatedCursor));
        let mut again = outlet.cursor();
        assert_eq!(outlet.batches(&mut again), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn what_is_flushed_goes_out_in_one_batch() {
        let outlet = outlet();
        outlet.join();
        let mut sealed = outlet.watch();
        for partition in 0..3 {
            let range = ReadRange {
                partition,
                start: 0,
                end: 1,
            };
            pass(&outlet, RelayUpdate::Read(range), true);
        }
        outlet.flush();
        tokio::select! {
            () = outlet.run() => {}
            changed = sealed.changed() => changed.unwrap(),
        }
        assert_eq!(outlet.batches(&mut 0).unwrap().len(), 1);
    }
}
