//! The entry point of all updates, from the log or from an upstream. Updates are applied to the rooms, and appended to
//! the update log, which the relays below this node read.
//!
//! ```text
//!  log ──────▶ source ─┐            ┌─▶ hub ─▶ subscribers
//!                      ├─▶ Updates ─┤
//!  upstream ─▶ relay ──┘            └─▶ update log ─▶ relays below
//! ```
//!
//! Invariant: an update is applied to the rooms before it is appended to the update log, and no relay joins in between.
//! So a relay that receives the snapshot, and then the log that begins at its cursor, misses no update.

#![allow(
    clippy::disallowed_methods,
    reason = "this module reads the time of updates and sweeps"
)]

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emostream_log::EventClock;
use emostream_model::{ReadRange, RelayFinal, RelayUpdate, Room};
use tokio::sync::SetOnce;

use crate::hub::{rejected_update::RejectedUpdate, rooms::Hub, update_log::UpdateLog};
use crate::metrics::Metrics;
use crate::room::{state::RoomState, totals::RoomTotals};

/// Interval at which old results are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Time after the end of a window at which its live tally is dropped. If no final result has arrived by then, the
/// dataflow has stopped, or was restarted with other windows, and a final result may never follow.
const OVERDUE: Duration = Duration::from_secs(60);

/// Applies updates to the rooms, and appends them to the update log.
pub(crate) struct Updates {
    pub(crate) hub: Arc<Hub>,
    pub(crate) log: UpdateLog,
    pub(crate) metrics: Metrics,
    /// Time for which final results stay in the ring.
    ring: Duration,
    /// The clock that sets the timestamps of the records in the log.
    clock: EventClock,
    swept: Mutex<Instant>,
    /// The first update that was rejected because it is from another log.
    mismatch: SetOnce<RejectedUpdate>,
}

impl Updates {
    pub(crate) fn new(hub: Arc<Hub>, metrics: Metrics, ring: Duration, clock: EventClock) -> Self {
        Self {
            hub,
            log: UpdateLog::new(metrics.clone()),
            metrics,
            ring,
            clock,
            swept: Mutex::new(Instant::now()),
            mismatch: SetOnce::new(),
        }
    }

    /// Adds a room at the start. `totals` are the counts of the room's totals record and of later final results that
    /// are older than the ring. `finals` are the final results in the ring, in their order.
    ///
    /// The metrics do not count these final results. The update log does not contain these final results either, since
    /// no relay is connected yet.
    pub(crate) fn restore_room(&self, room: &Room, totals: RoomTotals, finals: Vec<RelayFinal>) {
        let newest = finals.last().map(RelayFinal::order);
        // The totals may be later than all final results in the ring: the last final result is missing, or the room was
        // removed after it. Then the totals are applied after the final results.
        let later = (newest.is_some() && totals.as_of() > newest).then(|| totals.clone());
        let before = RoomTotals::before(totals, &finals);
        let entry = self.hub.get_or_insert(room, || RoomState::new(before));
        for closed in finals {
            let unread = self.hub.last_unread(closed.id.partition);
            entry.update(|state| state.push_final(closed, unread));
        }
        if let Some(later) = later {
            entry.update(|state| state.adopt_totals(later));
        }
    }

    /// Applies a trending record at the start. It is neither counted in the metrics nor appended to the update log.
    pub(crate) fn restore_trending(&self, trending: RelayUpdate) {
        // A trending record is never rejected, so the result is ignored.
        let _ = self.hub.apply(trending);
    }

    /// Applies an update that the publisher read at `origin_us`, Unix microseconds, and appends it to the update log if
    /// it is new. An update of another log is rejected, and this node cannot continue ([`Updates::log_mismatch`]).
    pub(crate) fn apply(&self, origin_us: u64, update: RelayUpdate) -> Result<(), RejectedUpdate> {
        let kind = match &update {
            RelayUpdate::Final(_) => Some("final"),
            RelayUpdate::Live(_) => Some("live"),
            RelayUpdate::Trending(_) => Some("trending"),
            RelayUpdate::Leaders(_)
            | RelayUpdate::Room(_)
            | RelayUpdate::Read(_)
            | RelayUpdate::Removed { .. } => None,
        };
        let applied = {
            let mut pending = self.log.lock();
            let copy = (pending.relays > 0).then(|| update.clone());
            let applied = self.hub.apply(update);
            if let (Ok(true), Some(update)) = (&applied, copy) {
                self.log.append(&mut pending, origin_us, &update);
            }
            applied
        };
        match applied {
            Ok(is_new) => {
                if let Some(kind) = kind.filter(|_| is_new) {
                    self.metrics.frames.with_label_values(&[kind]).inc();
                }
                Ok(())
            }
            Err(rejected) => {
                if rejected.is_log_mismatch() {
                    // Only the first rejected update is reported, so it does not matter if the value is set already.
                    let _ = self.mismatch.set(rejected.clone());
                }
                Err(rejected)
            }
        }
    }

    /// Notes that reading the final results of `partition` begins at `start`. Earlier final results are not known at
    /// this node.
    pub(crate) fn start_partition(&self, partition: u32, start: u64) {
        self.has_read(partition, start, start);
    }

    /// Notes that every final result of `partition` before `end` was applied.
    pub(crate) fn advance_to(&self, partition: u32, end: u64) {
        self.has_read(partition, self.hub.offsets.range(partition).start, end);
    }

    fn has_read(&self, partition: u32, start: u64, end: u64) {
        let range = ReadRange {
            partition,
            start,
            end,
        };
        // The result is ignored: if the range is of another log, `apply` has recorded that this node cannot continue.
        let _ = self.apply(now_us(), RelayUpdate::Read(range));
    }

    /// Waits until an update of another log is rejected, and returns the reason. After that, this node cannot continue.
    pub(crate) async fn log_mismatch(&self) -> RejectedUpdate {
        self.mismatch.wait().await.clone()
    }

    /// Returns the time `span` ago, Unix milliseconds.
    pub(crate) fn ago(&self, span: Duration) -> u64 {
        self.clock.unix_time().saturating_sub(span).as_millis() as u64
    }

    /// Drops old results if the last sweep was more than [`SWEEP_EVERY`] ago.
    pub(crate) fn sweep(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.elapsed() > SWEEP_EVERY {
            *swept = Instant::now();
            self.hub.sweep(self.ago(self.ring), self.ago(OVERDUE));
            self.metrics.rooms.set(self.hub.len() as i64);
        }
    }
}

/// Returns the time of the host clock in Unix microseconds. The nodes of a tree measure delays with it.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::testing::{closed, record};
    use emostream_model::{RelayDown, ResultId, ResultOrder, WindowSettings};
    use prometheus::Registry;
    use tokio::sync::watch;

    fn updates() -> Updates {
        let hub = Arc::new(Hub::new(
            WindowSettings::default(),
            Arc::new([]),
            watch::Sender::new(true),
        ));
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Updates::new(hub, metrics, Duration::ZERO, EventClock::host())
    }

    #[test]
    fn a_room_that_was_removed_after_the_finals_in_its_ring_is_restored_without_totals() {
        let updates = updates();
        let id = ResultId {
            partition: 0,
            offset: 5,
        };
        let finals = vec![closed(id, 1, record(7, None))];
        let before = ResultOrder::new(0, record(100, None).window);
        updates.restore_room(&Room::default(), RoomTotals::removed(before), finals);
        let room = updates.hub.find(&Room::default()).unwrap();
        let state = room.state();
        assert_eq!((state.finals().count(), state.totals().total()), (1, 0));
    }

    #[tokio::test]
    async fn an_update_that_is_known_already_is_not_passed_on() {
        let updates = updates();
        updates.log.join();
        for (start, end, is_applied) in [(5, 9, true), (5, 9, true), (1, 2, false)] {
            let range = ReadRange {
                partition: 0,
                start,
                end,
            };
            let applied = updates.apply(1, RelayUpdate::Read(range));
            assert_eq!(applied.is_ok(), is_applied, "{range:?}");
        }
        let mut sealed = updates.log.watch();
        updates.log.flush();
        tokio::select! {
            () = updates.log.run() => {}
            changed = sealed.changed() => changed.unwrap(),
        }
        let batches = updates.log.batches(&mut 0).unwrap();
        let length = size_of::<u32>();
        let sent = RelayDown::decode(&batches[0][length..]).unwrap();
        assert!(matches!(sent, RelayDown::Updates { updates, .. } if updates.len() == 1));
    }
}
