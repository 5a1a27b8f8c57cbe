//! The running ingest: its start, its partitions, its drain.

#![allow(clippy::disallowed_methods, reason = "the start of the service")]

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
    buffer::Buffer,
    config::{ACCEPTED_TIMEOUT, Config, PARTITIONS_EVERY},
    metrics::Metrics,
    producer::flusher::{Flusher, RecordLimit},
    producer::instance,
    producer::partition_health::Health,
};

/// A running ingest. Dropped without [`Ingest::drain`], it flushes once more and does not wait.
pub struct Ingest {
    service: Arc<Service>,
    flusher: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    stopping: CancellationToken,
}

/// Why a drain did not store everything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// The log refused some of it.
    #[error("the log refused {reactions} accepted reactions at the end, and they are lost")]
    Refused {
        /// How many.
        reactions: u64,
    },
    /// The log did not acknowledge in time.
    #[error("the log has not acknowledged {reactions} reactions in time; they may be lost")]
    Unacknowledged {
        /// How many.
        reactions: usize,
    },
}

/// Why an ingest did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log is not there.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The topic does not take a record of one reaction.
    #[error(
        "topic {topic} takes records of {bytes} bytes at most, which a reaction may exceed; raise its max.message.bytes (`emostream topics check` prints the command)"
    )]
    SmallRecords {
        /// The topic's name.
        topic: String,
        /// The most bytes.
        bytes: u64,
    },
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
        let Opened {
            partitions: count,
            appender,
            limit,
        } = open(log.clone(), topic.clone()).await?;
        let buffer = Arc::new(Buffer::new(
            config.buffer_reactions,
            config.flush_count,
            config.clock.clone(),
        ));
        let metrics = Arc::new(Metrics::new(registry, &buffer)?);
        metrics.partitions.set(i64::from(count));
        let partitions = Arc::new(AtomicU32::new(count));
        let away = metrics.partitions_away.clone();
        let health = Arc::new(Health::new(readiness.component("ingest"), away));
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

    /// Takes no more, flushes, and waits until the log has acknowledged everything. To be called when
    /// the listener has been drained.
    pub async fn drain(&self, within: Duration) -> Result<(), DrainError> {
        let Service {
            buffer, metrics, ..
        } = &*self.service;
        let lost_before = metrics.lost.get();
        let everything = timeout(within, self.flush_last()).await;
        self.stopping.cancel();
        let unacknowledged = buffer.fill();
        match (everything, metrics.lost.get() - lost_before) {
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
            // One that is gone has flushed, or its panic has ended the process.
            let _ = stop.send(());
            let _ = flusher.await;
        }
        self.service.buffer.empty().await;
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

/// What has to be known of the log before a port is served.
struct Opened {
    partitions: u32,
    appender: Box<dyn Appender>,
    limit: RecordLimit,
}

/// Asks the log, which may wait for a broker.
async fn open(log: Arc<dyn Log>, topic: String) -> Result<Opened, StartError> {
    let ending = || LogError::Refused("the process is ending".to_owned());
    let opened = spawn_blocking(move || open_now(&*log, &topic)).await;
    opened.unwrap_or_else(|_| Err(ending().into()))
}

fn open_now(log: &dyn Log, topic: &str) -> Result<Opened, StartError> {
    let partitions = log.partitions(topic)?;
    let Some(bytes) = log.describe(topic)?.max_record_bytes else {
        return Ok(Opened {
            partitions,
            appender: log.appender(ACCEPTED_TIMEOUT)?,
            limit: RecordLimit::default(),
        });
    };
    let limit = RecordLimit::of(bytes).ok_or_else(|| StartError::SmallRecords {
        topic: topic.to_owned(),
        bytes,
    })?;
    Ok(Opened {
        partitions,
        appender: log.bounded_appender(ACCEPTED_TIMEOUT, bytes)?,
        limit,
    })
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
