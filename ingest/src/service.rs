//! The running ingest: its start, the task that reads the number of partitions, and its drain.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the clock while the service starts"
)]

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use axum::Router;
use emostream_http::{BodyReader, Readiness};
use emostream_log::{Appender, Header, Log, LogError};
use emostream_model::INSTANCE_HEADER;
use prometheus::Registry;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::rate_limiter::Limiter,
    admission::room_limit::Rooms,
    api::handler::Service,
    buffer::{Buffer, EarlyFlush},
    config::{ACCEPTED_TIMEOUT, Config, PARTITION_REFRESH},
    metrics::Metrics,
    producer::flusher::{Flusher, RecordLimit},
    producer::instance,
    producer::partition_health::PartitionHealth,
};

/// A running ingest. If it is dropped without [`Ingest::drain`], it flushes a last time, but does not wait until the
/// log has stored the reactions.
pub struct Ingest {
    service: Arc<Service>,
    flusher: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    stopping: CancellationToken,
}

/// The reason why a drain did not store all accepted reactions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// The log refused reactions.
    #[error("the log refused {reactions} accepted reactions during the shutdown, so they are lost")]
    Refused {
        /// Number of reactions.
        reactions: u64,
    },
    /// The log did not acknowledge reactions in time.
    #[error("the log has not acknowledged {reactions} reactions in time; they may be lost")]
    Unacknowledged {
        /// Number of reactions.
        reactions: usize,
    },
}

/// The reason why an ingest did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The topic does not accept records that contain one reaction of maximum size.
    #[error(
        "topic {topic} accepts records of at most {bytes} bytes, which a reaction may exceed; raise its max.message.bytes (`emostream topics check` prints the command)"
    )]
    SmallRecords {
        /// Name of the topic.
        topic: String,
        /// Maximum bytes of a record.
        bytes: u64,
    },
    /// The registry already contains the metrics of an ingest.
    #[error("the ingest's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Ingest {
    /// Starts an ingest. The log must have the topic of reactions, and the function must be called in a tokio runtime.
    /// The ingest is not ready until the log has acknowledged a first record.
    pub async fn start(
        config: Config,
        log: Arc<dyn Log>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, StartError> {
        let topic = config.topics.reactions();
        let OpenedTopic {
            partitions: count,
            appender,
            limit,
        } = open(log.clone(), topic.clone()).await?;
        let buffer = Arc::new(Buffer::new(
            config.buffer_reactions,
            EarlyFlush {
                count: config.flush_count,
                quiet: config.flush,
                first_reactions: limit.reactions(),
            },
            config.clock.clone(),
        ));
        let metrics = Arc::new(Metrics::new(registry, &buffer)?);
        metrics.partitions.set(i64::from(count));
        let partitions = Arc::new(AtomicU32::new(count));
        let unavailable = metrics.partitions_unavailable.clone();
        let health = Arc::new(PartitionHealth::new(
            readiness.component("ingest"),
            unavailable,
        ));
        let flusher = Flusher {
            buffer: buffer.clone(),
            appender,
            topic: topic.clone(),
            limit,
            partitions: partitions.clone(),
            health: health.clone(),
            metrics: metrics.clone(),
            instance: Header {
                name: INSTANCE_HEADER.to_owned(),
                value: instance::new_id().into(),
            },
        };
        let (stop, stopped) = oneshot::channel();
        let flusher = tokio::spawn(flusher.run(config.flush, stopped));
        let stopping = CancellationToken::new();
        let watch = watch_partitions(log, topic, partitions, metrics.clone());
        tokio::spawn(stopping.clone().run_until_cancelled_owned(watch));
        let rooms = Rooms::new(config.rooms.clone(), config.max_rooms, Instant::now());
        let limiter = Limiter::new(config.per_user, config.per_address, Instant::now());
        let service = Service {
            bodies: BodyReader::new(config.bodies()),
            config,
            buffer,
            health,
            limiter,
            rooms: Mutex::new(rooms),
            metrics,
        };
        Ok(Self {
            service: Arc::new(service),
            flusher: Mutex::new(Some((stop, flusher))),
            stopping,
        })
    }

    /// Returns the routes of the service.
    pub fn router(&self) -> Router {
        self.service.clone().router()
    }

    /// Refuses further reactions, flushes, and waits until the log has acknowledged all reactions. The caller must
    /// first drain the listener.
    pub async fn drain(&self, within: Duration) -> Result<(), DrainError> {
        let Service {
            buffer, metrics, ..
        } = &*self.service;
        let lost_before = metrics.lost.get();
        let flushed = timeout(within, self.flush_last()).await;
        self.stopping.cancel();
        let unacknowledged = buffer.used();
        match (flushed, metrics.lost.get() - lost_before) {
            (Err(_), _) if unacknowledged > 0 => Err(DrainError::Unacknowledged {
                reactions: unacknowledged,
            }),
            (_, 0) => Ok(()),
            (_, reactions) => Err(DrainError::Refused { reactions }),
        }
    }

    async fn flush_last(&self) {
        let flusher = self
            .flusher
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((stop, flusher)) = flusher {
            // Sending fails only if the flusher has already ended. In this case it has flushed, or its panic has ended
            // the process.
            let _ = stop.send(());
            let _ = flusher.await;
        }
        self.service.buffer.wait_until_empty().await;
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

/// The values that the ingest reads from the log before it serves requests.
struct OpenedTopic {
    partitions: u32,
    appender: Box<dyn Appender>,
    limit: RecordLimit,
}

/// Opens the topic on a blocking thread, since the log may wait for a broker.
async fn open(log: Arc<dyn Log>, topic: String) -> Result<OpenedTopic, StartError> {
    let stopping = || LogError::Refused("the process is stopping".to_owned());
    let opened = spawn_blocking(move || open_now(&*log, &topic)).await;
    opened.unwrap_or_else(|_| Err(stopping().into()))
}

fn open_now(log: &dyn Log, topic: &str) -> Result<OpenedTopic, StartError> {
    let partitions = log.partitions(topic)?;
    let Some(bytes) = log.describe(topic)?.max_record_bytes else {
        return Ok(OpenedTopic {
            partitions,
            appender: log.appender(ACCEPTED_TIMEOUT)?,
            limit: RecordLimit::default(),
        });
    };
    let limit = RecordLimit::of(bytes).ok_or_else(|| StartError::SmallRecords {
        topic: topic.to_owned(),
        bytes,
    })?;
    Ok(OpenedTopic {
        partitions,
        appender: log.bounded_appender(ACCEPTED_TIMEOUT, bytes)?,
        limit,
    })
}

/// Reads the number of the topic's partitions periodically.
async fn watch_partitions(
    log: Arc<dyn Log>,
    topic: String,
    partitions: Arc<AtomicU32>,
    metrics: Arc<Metrics>,
) {
    loop {
        sleep(PARTITION_REFRESH).await;
        let (log, topic) = (log.clone(), topic.clone());
        match spawn_blocking(move || log.partitions(&topic)).await {
            Ok(Ok(count)) => {
                let before = partitions.swap(count, Ordering::Relaxed);
                metrics.partitions.set(i64::from(count));
                if before != count {
                    tracing::info!(before, now = count, "the number of partitions has changed");
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "the number of partitions could not be read"),
            Err(_) => return,
        }
    }
}
