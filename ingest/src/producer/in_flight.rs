//! A flush in flight: the log has its records and has not yet acknowledged all of them.

#![allow(
    clippy::disallowed_methods,
    reason = "measures how long records are in flight"
)]

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use emostream_log::{Done, LogError};
use tokio::sync::OwnedSemaphorePermit;

use crate::{buffer::StoredSender, metrics::Metrics, producer::partition_health::PartitionHealth};

/// One flush. Each of its records has a reference to this value, so the value is dropped together with the last record,
/// and the flush is then counted in the metrics.
pub(crate) struct InFlightFlush {
    started: Instant,
    health: Arc<PartitionHealth>,
    metrics: Arc<Metrics>,
    lost: AtomicUsize,
    failure: Mutex<Option<LogError>>,
}

/// One record of a flush.
pub(crate) struct Record {
    flush: Arc<InFlightFlush>,
    reactions: usize,
    completion: Mutex<RecordCompletion>,
}

/// The buffer permits to release and the waiting requests to notify when a record is acknowledged or has failed.
#[derive(Default)]
pub(crate) struct RecordCompletion {
    pub(crate) permits: Option<OwnedSemaphorePermit>,
    pub(crate) waiting: Vec<StoredSender>,
}

impl RecordCompletion {
    /// Adds the permits and the sender of a request whose reactions the record contains.
    pub(crate) fn attach(&mut self, permits: Option<OwnedSemaphorePermit>, stored: StoredSender) {
        self.waiting.push(stored);
        match (&mut self.permits, permits) {
            (Some(held), Some(permits)) => held.merge(permits),
            (held, permits) => *held = held.take().or(permits),
        }
    }
}

impl InFlightFlush {
    /// Creates a flush that starts now.
    pub(crate) fn start(health: Arc<PartitionHealth>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            health,
            metrics,
            lost: AtomicUsize::new(0),
            failure: Mutex::new(None),
        })
    }

    /// Returns a record of this flush that contains `reactions` reactions.
    pub(crate) fn record(
        self: &Arc<Self>,
        reactions: usize,
        completion: RecordCompletion,
    ) -> Arc<Record> {
        Arc::new(Record {
            flush: self.clone(),
            reactions,
            completion: Mutex::new(completion),
        })
    }

    fn failure(&self) -> MutexGuard<'_, Option<LogError>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// Registers the record as sent to a partition. Returns its ticket and the callback that the log calls with the
    /// result. If the log refuses the record at once, the caller calls [`Record::on_delivery`] instead.
    pub(crate) fn on_sent(self: &Arc<Self>, partition: u32) -> (u64, Done) {
        let ticket = self.flush.health.on_sent(partition, Instant::now());
        let record = self.clone();
        let done = move |outcome: Result<u64, LogError>| {
            record.on_delivery(partition, ticket, outcome.as_ref().err());
            record.complete(outcome.map(drop));
        };
        (ticket, Box::new(done))
    }

    /// Reports to [`PartitionHealth`] that the log has acknowledged or refused the record in this partition. After a
    /// refusal, the record may be sent to another partition.
    pub(crate) fn on_delivery(&self, partition: u32, ticket: u64, refused: Option<&LogError>) {
        let health = &self.flush.health;
        health.on_delivery(partition, ticket, refused, Instant::now());
    }

    /// Counts the reactions, releases their permits and notifies the waiting requests.
    pub(crate) fn complete(&self, outcome: Result<(), LogError>) {
        let metrics = &self.flush.metrics;
        let reactions = self.reactions as u64;
        let mut completion = self
            .completion
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let RecordCompletion { permits, waiting } = std::mem::take(&mut *completion);
        drop(completion);
        match &outcome {
            Ok(()) => metrics.stored.inc_by(reactions),
            Err(error) => {
                self.flush.failure().get_or_insert_with(|| error.clone());
                if waiting.is_empty() {
                    metrics.lost.inc_by(reactions);
                    let lost = &self.flush.lost;
                    lost.fetch_add(self.reactions, Ordering::Relaxed);
                } else {
                    metrics.refused.inc_by(reactions);
                }
            }
        }
        // Permits are released before requests are notified. So these permits are free when a client sends its next
        // request after the response.
        drop(permits);
        for stored in waiting {
            // Sending fails if the request has timed out or its client has disconnected.
            let _ = stored.send(outcome.clone());
        }
    }
}

impl Drop for InFlightFlush {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        self.metrics.flush_seconds.observe(duration.as_secs_f64());
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
