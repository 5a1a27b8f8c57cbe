//! The one way in for news, from the log or from an upstream: into the rooms, and on to the relays below.
//!
//! ```text
//!  [log] ─ tail ──────┐                  ┌─▶ hub ─▶ subscribers
//!                     ├─▶ Updates ─ apply ──┤
//!  upstream ─ link ───┘                  └─▶ outlet ─▶ relays below
//! ```
//!
//! Invariant: what is passed on was taken in here first, so a relay that begins with the rooms as they
//! stand and goes on with what is passed on misses nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emostream_log::EventClock;
use emostream_model::{ReadRange, RelayUpdate};
use tokio::sync::watch;

use crate::{
    hub::{rejected_update::RejectedUpdate, rooms::Hub, update_log::UpdateLog},
    metrics::Metrics,
};

/// How often what is old is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// A window that ended so long ago and is not final will hardly be: the dataflow that showed it is away,
/// or came back with other windows.
const OVERDUE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Updates {
    pub(crate) hub: Arc<Hub>,
    pub(crate) outlet: Arc<UpdateLog>,
    pub(crate) metrics: Metrics,
    /// How long finals are kept.
    ring: Duration,
    /// Dates the records that are read.
    clock: EventClock,
    swept: Mutex<Instant>,
    /// Why this node cannot go on, once it cannot.
    failed: watch::Sender<Option<RejectedUpdate>>,
}

impl Updates {
    /// Nothing has come yet.
    pub(crate) fn new(hub: Arc<Hub>, metrics: Metrics, ring: Duration, clock: EventClock) -> Self {
        Self {
            hub,
            outlet: Arc::new(UpdateLog::new(metrics.clone())),
            metrics,
            ring,
            clock,
            swept: Mutex::new(Instant::now()),
            failed: watch::Sender::new(None),
        }
    }

    /// Takes news in that the publisher read at `origin_us`, Unix microseconds; what is known already is not
    /// passed on.
    ///
    /// News of another log ends this node ([`Updates::failed`]); a room that is none is the caller's to judge.
    pub(crate) fn take(&self, origin_us: u64, update: RelayUpdate) -> Result<(), RejectedUpdate> {
        self.take_after(origin_us, None, update)
    }

    /// The same of a result that was counted after so many backward resets, where that is known.
    pub(crate) fn take_after(
        &self,
        origin_us: u64,
        resets: Option<u64>,
        update: RelayUpdate,
    ) -> Result<(), RejectedUpdate> {
        let kind = match &update {
            RelayUpdate::Final { .. } => Some("final"),
            RelayUpdate::Live(_) => Some("live"),
            RelayUpdate::Trending(_) => Some("trending"),
            RelayUpdate::Leaders(_) | RelayUpdate::Room(_) | RelayUpdate::Read(_) => None,
        };
        let taken = self
            .outlet
            .pass(origin_us, update, |update| self.hub.apply(resets, update));
        match (taken, kind) {
            (Ok(true), Some(kind)) => self.metrics.frames.with_label_values(&[kind]).inc(),
            (Ok(_), _) => {}
            (Err(unfit), _) => {
                if unfit.is_log_mismatch() {
                    self.failed.send_replace(Some(unfit.clone()));
                }
                return Err(unfit);
            }
        }
        Ok(())
    }

    /// Finals of `partition` begin to be read at `start`; what lies before it is not known here.
    pub(crate) fn begins(&self, partition: u32, start: u64) {
        self.has_read(partition, start, start);
    }

    /// Every final of `partition` before `end` was taken in.
    pub(crate) fn reaches(&self, partition: u32, end: u64) {
        self.has_read(partition, self.hub.offsets().range(partition).start, end);
    }

    fn has_read(&self, partition: u32, start: u64, end: u64) {
        let range = ReadRange {
            partition,
            start,
            end,
        };
        // What is of another log ends this node.
        let _ = self.take(now_us(), RelayUpdate::Read(range));
    }

    /// Returns once this node cannot go on, and why.
    pub(crate) async fn failed(&self) -> RejectedUpdate {
        let mut failed = self.failed.subscribe();
        loop {
            if let Some(unfit) = failed.borrow_and_update().clone() {
                return unfit;
            }
            // The sender lives as long as this feed.
            let _ = failed.changed().await;
        }
    }

    /// The moment that lies `span` back, Unix milliseconds.
    pub(crate) fn ago(&self, span: Duration) -> u64 {
        self.clock.unix_time().saturating_sub(span).as_millis() as u64
    }

    /// Forgets what is old, now and then.
    pub(crate) fn sweep(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.elapsed() > SWEEP_EVERY {
            *swept = Instant::now();
            self.hub.sweep(self.ago(self.ring), self.ago(OVERDUE));
            self.metrics.rooms.set(self.hub.len() as i64);
        }
    }
}

/// Now by the host clock, which other hosts' clocks are compared with: Unix microseconds.
pub(crate) fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_micros() as u64)
}
