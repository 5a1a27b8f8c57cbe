//! A flush under way: its records are with the log, which has not yet acknowledged them all.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use emostream_log::{Done, LogError};
use tokio::sync::OwnedSemaphorePermit;

use crate::{buffer::Stored, health::Health, metrics::Metrics};

/// One flush. It lands when its last record is done, which is when the last [`Flight::record`] is
/// dropped: then those who wait are told, and its places in the buffer are free.
pub(crate) struct Flight {
    number: u64,
    left: Instant,
    places: Option<OwnedSemaphorePermit>,
    waiting: Vec<Stored>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    lost: AtomicUsize,
    failure: Mutex<Option<LogError>>,
}

/// One record of a flight. Dropped without an answer of the log's, it counts as lost.
pub(crate) struct RecordUnderWay {
    flight: Arc<Flight>,
    reactions: usize,
    answered: bool,
}

impl Flight {
    /// The flight of that number leaves now.
    pub(crate) fn leave(
        number: u64,
        places: Option<OwnedSemaphorePermit>,
        waiting: Vec<Stored>,
        health: Arc<Health>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let left = Instant::now();
        health.left(number, left);
        Arc::new(Self {
            number,
            left,
            places,
            waiting,
            health,
            metrics,
            lost: AtomicUsize::new(0),
            failure: Mutex::new(None),
        })
    }

    /// Names why a record was not even queued; its [`RecordUnderWay`] has been dropped.
    pub(crate) fn fail(&self, error: LogError) {
        *self.failure() = Some(error);
    }

    fn failure(&self) -> MutexGuard<'_, Option<LogError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of its records, holding that many reactions.
    pub(crate) fn record(self: &Arc<Self>, reactions: usize) -> RecordUnderWay {
        RecordUnderWay {
            flight: self.clone(),
            reactions,
            answered: false,
        }
    }
}

impl RecordUnderWay {
    /// What the log is to call.
    pub(crate) fn done(mut self) -> Done {
        Box::new(move |outcome| self.answer(outcome.map(|_| ())))
    }

    fn answer(&mut self, outcome: Result<(), LogError>) {
        self.answered = true;
        let metrics = &self.flight.metrics;
        let Err(error) = outcome else {
            metrics.stored.inc_by(self.reactions as u64);
            return;
        };
        metrics.lost.inc_by(self.reactions as u64);
        self.flight
            .lost
            .fetch_add(self.reactions, Ordering::Relaxed);
        self.flight.failure().get_or_insert(error);
    }
}

impl Drop for RecordUnderWay {
    fn drop(&mut self) {
        if !self.answered {
            let silence = LogError::Refused("the log gave no answer".to_owned());
            self.answer(Err(silence));
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let failure = self.failure().take();
        let outcome = failure.map_or(Ok(()), Err);
        self.metrics
            .flush_seconds
            .observe(self.left.elapsed().as_secs_f64());
        match &outcome {
            Ok(()) => self.metrics.flushes.inc(),
            Err(error) => {
                self.metrics.failed_flushes.inc();
                match *self.lost.get_mut() {
                    0 => tracing::warn!(%error, "the log does not take heartbeats"),
                    lost => tracing::error!(lost, %error, "accepted reactions are lost"),
                }
            }
        }
        self.health.landed(self.number, outcome.as_ref().err());
        // Before anyone is told: who hears that it is stored finds its places free.
        drop(self.places.take());
        for stored in self.waiting.drain(..) {
            // Whoever has stopped waiting needs no answer.
            let _ = stored.send(outcome.clone());
        }
    }
}
