//! The running ingest: its start, its partitions, its drain.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_http::{Bodies, Handler, Readiness, Shutdown};
use emostream_log::{Appender, Log, LogError};
use prometheus::Registry;
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    buffer::{Buffer, Stored},
    config::{Config, LOG_TIMEOUT, PARTITIONS_EVERY},
    flush::{DrainError, Flusher},
    handler::Service,
    health::Health,
    metrics::Metrics,
    rooms::Rooms,
};

/// A running ingest. Dropped without [`Ingest::drain`], it flushes once more and does not wait.
pub struct Ingest {
    service: Arc<Service>,
    stop: Mutex<Option<oneshot::Sender<Stored>>>,
    stopping: Shutdown,
}

/// Why an ingest did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log is not there.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The registry holds an ingest already.
    #[error("the ingest's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Ingest {
    /// Starts an ingest on a log that has its topic, in a tokio runtime. It is not ready until the log
    /// has acknowledged a first flush.
    pub async fn start(
        config: Config,
        log: Arc<dyn Log>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, StartError> {
        let topic = config.topics.reactions();
        let (count, appender) = open(log.clone(), topic.clone()).await?;
        let buffer = Arc::new(Buffer::new(config.buffer_reactions, config.flush_count));
        let metrics = Arc::new(Metrics::new(registry, &buffer)?);
        metrics.partitions.set(i64::from(count));
        let partitions = Arc::new(AtomicU32::new(count));
        let flusher = Flusher {
            buffer: buffer.clone(),
            appender,
            topic: topic.clone(),
            partitions: partitions.clone(),
            health: Arc::new(Health::new(readiness.component("ingest"))),
            metrics: metrics.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(flusher.run(config.flush, stopped));
        let stopping = Shutdown::new();
        let watch = watch_partitions(log, topic, partitions, metrics.clone());
        tokio::spawn(until(stopping.clone(), watch));
        let rooms = Rooms::new(config.rooms.clone(), config.max_rooms, Instant::now());
        let service = Service {
            bodies: Bodies::new(config.bodies()),
            config,
            buffer,
            rooms: Mutex::new(rooms),
            metrics,
        };
        Ok(Self {
            service: Arc::new(service),
            stop: Mutex::new(Some(stop)),
            stopping,
        })
    }

    /// What answers its requests.
    pub fn handler(&self) -> Arc<impl Handler + use<>> {
        self.service.clone()
    }

    /// Takes no more, flushes, and waits until the log has acknowledged everything. To be called when
    /// the listener has been drained.
    pub async fn drain(&self, within: Duration) -> Result<(), DrainError> {
        let buffer = &self.service.buffer;
        let everything = timeout(within, self.flush_last()).await;
        self.stopping.trigger();
        match everything {
            Ok(last) => last.map_err(DrainError::Refused),
            Err(_) => Err(DrainError::Unacknowledged {
                reactions: buffer.fill(),
            }),
        }
    }

    async fn flush_last(&self) -> Result<(), LogError> {
        let buffer = &self.service.buffer;
        let stop = self
            .stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut last = Ok(());
        if let Some(stop) = stop {
            let (stored, outcome) = oneshot::channel();
            // A flusher that is gone has closed the buffer, and the outcome says so.
            let _ = stop.send(stored);
            last = outcome.await.unwrap_or_else(|_| Err(silence()));
        }
        buffer.empty().await;
        last
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.stopping.trigger();
    }
}

fn silence() -> LogError {
    LogError::Refused("the log gave no answer".to_owned())
}

/// Asks the log what has to be known before a port is served. The log may wait for a broker.
async fn open(log: Arc<dyn Log>, topic: String) -> Result<(u32, Box<dyn Appender>), LogError> {
    let opened = spawn_blocking(move || Ok((log.partitions(&topic)?, log.appender(LOG_TIMEOUT)?)));
    opened.await.unwrap_or_else(|_| Err(silence()))
}

/// Looks now and then whether the topic has more partitions.
async fn watch_partitions(
    log: Arc<dyn Log>,
    topic: String,
    partitions: Arc<AtomicU32>,
    metrics: Arc<Metrics>,
) {
    loop {
        sleep(PARTITIONS_EVERY).await;
        let (log, topic) = (log.clone(), topic.clone());
        match spawn_blocking(move || log.partitions(&topic)).await {
            Ok(Ok(count)) => {
                let before = partitions.swap(count, Ordering::Relaxed);
                metrics.partitions.set(i64::from(count));
                if before != count {
                    tracing::info!(before, now = count, "the number of partitions has changed");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the partitions could not be looked up"),
            Err(_) => return,
        }
    }
}

async fn until(stopping: Shutdown, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stopping.requested() => {}
        () = work => {}
    }
}
