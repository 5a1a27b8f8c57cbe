//! The log of updates that the relays below this node read. Each update is encoded once for all of them.
//!
//! ```text
//!  append ─▶ pending batch ─ seal ─▶ ring of batches ◀─ one cursor per relay
//! ```
//!
//! A relay has a cursor and no queue, so a slow relay uses no memory apart from the buffer of its socket. If the batch
//! at a relay's cursor is not in the ring any more, the relay receives a new snapshot of the rooms.

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

/// Maximum bytes of the ring. A relay may lag behind by this number of bytes, for example while it receives its first
/// snapshot.
const RING_BYTES: usize = 32 << 20;

/// Number of bytes at which a batch is sealed at once. When many rooms change at the same time, relays can then apply
/// the batch while this node applies the next updates.
const BATCH_BYTES: usize = 16 << 10;

/// A batch waits for further updates for this time multiplied by the number of relays. The factor is many times the CPU
/// time of a send, so that sends use only a small part of a core at any number of relays and any rate of updates. The
/// first update after a pause does not wait.
const LINGER_PER_RELAY: Duration = Duration::from_micros(100);

/// Maximum time for which a batch waits. The wait adds to the delay of live tallies.
const MAX_LINGER: Duration = Duration::from_millis(20);

/// The log of updates for the relays below this node.
#[derive(Debug)]
pub(crate) struct UpdateLog {
    pending: Mutex<Pending>,
    ring: Mutex<Ring>,
    /// The number of the batch that will be sealed next.
    sealed: watch::Sender<u64>,
    /// A signal that is notified when the pending batch may be sealed.
    flushed: Notify,
    metrics: Metrics,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Number of connected relays. Without relays, nothing is encoded.
    pub(super) relays: u32,
    batch: RelayBatch,
}

#[derive(Debug, Default)]
struct Ring {
    batches: VecDeque<Bytes>,
    bytes: usize,
    /// The number of the oldest batch in the ring.
    first: u64,
}

/// Error: the batch at a cursor is not in the ring any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TruncatedCursor;

impl UpdateLog {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            pending: Mutex::default(),
            ring: Mutex::default(),
            sealed: watch::Sender::new(0),
            flushed: Notify::new(),
            metrics,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the log while an update is applied to the rooms and appended to the log. A relay joins before or after
    /// that, so the relay receives the update from the log or in its snapshot.
    pub(super) fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an update that the publisher read at `origin_us`, Unix microseconds. Without relays the update is
    /// dropped.
    pub(super) fn append(&self, pending: &mut Pending, origin_us: u64, update: &RelayUpdate) {
        if pending.relays > 0 {
            pending.batch.push(origin_us, update);
            if pending.batch.bytes() >= BATCH_BYTES {
                self.seal(pending);
            }
        }
    }

    /// Allows the pending batch to be sealed, since all updates that were available are appended.
    pub(crate) fn flush(&self) {
        if !self.lock().batch.is_empty() {
            self.flushed.notify_one();
        }
    }

    /// Seals flushed batches, until the future is dropped.
    pub(crate) async fn run(&self) {
        let mut last = Instant::now();
        loop {
            self.flushed.notified().await;
            let linger = LINGER_PER_RELAY * self.lock().relays;
            sleep_until(last + linger.min(MAX_LINGER)).await;
            self.seal(&mut self.lock());
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

    /// Counts a relay that has connected.
    pub(crate) fn join(&self) {
        self.lock().relays += 1;
    }

    /// Removes a relay that has disconnected. After the last relay the ring is emptied.
    pub(crate) fn leave(&self) {
        let mut pending = self.lock();
        pending.relays -= 1;
        if pending.relays == 0 {
            pending.batch = RelayBatch::default();
            let mut ring = self.ring();
            while !ring.batches.is_empty() {
                ring.drop_oldest();
            }
        }
    }

    /// Returns the cursor of a relay that has joined and will be sent a snapshot of the rooms.
    pub(crate) fn cursor(&self) -> u64 {
        let ring = self.ring();
        ring.first + ring.batches.len() as u64
    }

    /// Returns the batches that begin at `cursor`, and moves `cursor` after them.
    pub(crate) fn batches(&self, cursor: &mut u64) -> Result<Vec<Bytes>, TruncatedCursor> {
        let ring = self.ring();
        let passed = cursor.checked_sub(ring.first).ok_or(TruncatedCursor)?;
        let batches = ring.batches.iter().skip(passed as usize);
        let batches: Vec<Bytes> = batches.cloned().collect();
        *cursor += batches.len() as u64;
        Ok(batches)
    }

    /// Returns a receiver that is notified of new batches.
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
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::{ReadRange, Room, RoomSnapshot};
    use prometheus::Registry;

    fn log() -> UpdateLog {
        UpdateLog::new(Metrics::register(&Registry::new()).unwrap())
    }

    fn update(bytes: usize) -> RelayUpdate {
        RelayUpdate::Room(RoomSnapshot {
            room: Room::default(),
            evicted_through: None,
            newest: None,
            finals: vec!["x".repeat(bytes)],
            totals_as_of: None,
            totals: Vec::new(),
            live: Vec::new(),
            trending: None,
        })
    }

    #[test]
    fn without_relays_nothing_is_kept() {
        let log = log();
        log.append(&mut log.lock(), 1, &update(BATCH_BYTES));
        assert_eq!(log.cursor(), 0);
        log.join();
        log.append(&mut log.lock(), 1, &update(BATCH_BYTES));
        assert_eq!(log.cursor(), 1);
        log.leave();
        assert_eq!(log.ring().bytes, 0);
        assert_eq!(log.cursor(), 1);
    }

    #[test]
    fn the_ring_is_bounded_and_a_cursor_before_it_is_truncated() {
        let log = log();
        log.join();
        let (mut slow, mut quick) = (log.cursor(), log.cursor());
        let mut received = 0;
        let piece = 1 << 20;
        for _ in 0..2 * RING_BYTES / piece {
            log.append(&mut log.lock(), 1, &update(piece));
            received += log.batches(&mut quick).unwrap().len();
            assert!(log.ring().bytes <= RING_BYTES);
        }
        assert_eq!(received, 2 * RING_BYTES / piece);
        assert_eq!(log.batches(&mut slow), Err(TruncatedCursor));
        let mut again = log.cursor();
        assert_eq!(log.batches(&mut again), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn flushed_updates_are_sent_in_one_batch() {
        let log = log();
        log.join();
        let mut sealed = log.watch();
        for partition in 0..3 {
            let range = ReadRange {
                partition,
                start: 0,
                end: 1,
            };
            log.append(&mut log.lock(), 1, &RelayUpdate::Read(range));
        }
        log.flush();
        tokio::select! {
            () = log.run() => {}
            changed = sealed.changed() => changed.unwrap(),
        }
        assert_eq!(log.batches(&mut 0).unwrap().len(), 1);
    }
}
