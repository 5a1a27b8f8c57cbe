//! A flush under way: its records are with the log, which has not yet acknowledged them all.

#![allow(clippy::disallowed_methods, reason = "times records in flight")]

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use emostream_log::{Done, LogError};
use tokio::sync::OwnedSemaphorePermit;

use crate::{buffer::Stored, metrics::Metrics, producer::partition_health::Health};

/// One flush. It lands with the last of its records.
pub(crate) struct Flight {
    left: Instant,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    lost: AtomicUsize,
    failure: Mutex<Option<LogError>>,
}

/// One record of a flight: when its fate is known, those who wait for it are told, and its places in
/// the buffer are free.
pub(crate) struct Record {
    flight: Arc<Flight>,
    reactions: usize,
    aboard: Mutex<Aboard>,
}

/// Who and what hangs on a record's fate.
#[derive(Default)]
pub(crate) struct Aboard {
    pub(crate) places: Option<OwnedSemaphorePermit>,
    pub(crate) waiting: Vec<Stored>,
}

impl Aboard {
    /// A request's reactions come in.
    pub(crate) fn board(&mut self, places: Option<OwnedSemaphorePermit>, stored: Stored) {
        self.waiting.push(stored);
        match (&mut self.places, places) {
            (Some(held), Some(places)) => held.merge(places),
            (held, places) => *held = held.take().or(places),
        }
    }
}

impl Flight {
    /// A flight leaves now.
    pub(crate) fn leave(health: Arc<Health>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            left: Instant::now(),
            health,
            metrics,
            lost: AtomicUsize::new(0),
            failure: Mutex::new(None),
        })
    }

    /// One of its records, holding that many reactions.
    pub(crate) fn record(self: &Arc<Self>, reactions: usize, aboard: Aboard) -> Arc<Record> {
        Arc::new(Record {
            flight: self.clone(),
            reactions,
            aboard: Mutex::new(aboard),
        })
    }

    fn failure(&self) -> MutexGuard<'_, Option<LogError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// It leaves for a partition: what the log is to call, or whoever finds that the log does not even
    /// take it.
    pub(crate) fn leaves(self: &Arc<Self>, partition: u32) -> (u64, Done) {
        let ticket = self.flight.health.left(partition, Instant::now());
        let record = self.clone();
        let done = move |outcome: Result<u64, LogError>| {
            record.heard(partition, ticket, outcome.as_ref().err());
            record.lands(outcome.map(drop));
        };
        (ticket, Box::new(done))
    }

    /// The log said at once that it does not take it there; another partition may.
    pub(crate) fn heard(&self, partition: u32, ticket: u64, refused: Option<&LogError>) {
        let health = &self.flight.health;
        health.landed(partition, ticket, refused, Instant::now());
    }

    /// Its fate is known.
    pub(crate) fn lands(&self, outcome: Result<(), LogError>) {
        let metrics = &self.flight.metrics;
        let reactions = self.reactions as u64;
        let mut aboard = self.aboard.lock().unwrap_or_else(PoisonError::into_inner);
        let Aboard { places, waiting } = std::mem::take(&mut *aboard);
        drop(aboard);
        match &outcome {
            Ok(()) => metrics.stored.inc_by(reactions),
            Err(error) => {
                self.flight.failure().get_or_insert_with(|| error.clone());
                if waiting.is_empty() {
                    metrics.lost.inc_by(reactions);
                    let lost = &self.flight.lost;
                    lost.fetch_add(self.reactions, Ordering::Relaxed);
                } else {
                    metrics.refused.inc_by(reactions);
                }
            }
        }
        // Before anyone is told: who hears that it is stored finds its places free.
        drop(places);
        for stored in waiting {
            // Whoever has stopped waiting needs no answer.
            let _ = stored.send(outcome.clone());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let took = self.left.elapsed();
        self.metrics.flush_seconds.observe(took.as_secs_f64());
        let failure = self.failure().take();
        let Some(error) = failure else {
            self.metrics.flushes.inc();
            return;
        };
        self.metrics.failed_flushes.inc();
        let lost = *self.lost.get_mut();
        if lost > 0 {
            tracing::error!(lost, %error, "accepted reactions are lost");
        }
    }
}
