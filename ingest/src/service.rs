//! The running service: requests in, answers out, and the drain at its end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_http::{
    AllowOrigin, BodyError, Handler, Problem, Readiness, Request, Response, Shutdown, read_body,
};
use emostream_log::{Appender, Log, LogError};
use emostream_model::Submission;
use hyper::{Method, body::Body as _, header::ORIGIN};
use prometheus::Registry;
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    answer::{self, Receipt},
    buffer::{Buffer, Closed, Reservation, Stored},
    config::{Config, LOG_TIMEOUT, MAX_BODY_BYTES, PARTITIONS_EVERY},
    flush::{DrainError, Flusher},
    health::Health,
    metrics::Metrics,
    request::{self, Dialect, METHODS, Wait},
    rooms::Rooms,
    submissions::{Rejection, Submissions},
};

/// How much longer than the log's own time limit a request waits for it, so that the log's word comes
/// first: nothing is to be stored after its sender was told that it failed.
const LOG_GRACE: Duration = Duration::from_secs(1);

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

/// What every request shares.
struct Service {
    config: Config,
    buffer: Arc<Buffer>,
    rooms: Mutex<Rooms>,
    metrics: Arc<Metrics>,
}

impl Handler for Service {
    fn knows(&self, path: &str) -> bool {
        Dialect::of(path).is_some()
    }

    async fn handle(&self, mut request: Request, _peer: SocketAddr) -> Response {
        let started = Instant::now();
        let Some(dialect) = Dialect::of(request.uri().path()) else {
            return Problem::unknown_path().into();
        };
        let allow = &self.config.allow_origin;
        let response = if *request.method() == Method::OPTIONS {
            allow.preflight(request.headers(), METHODS)
        } else {
            let origin = request.headers().get(ORIGIN).cloned();
            let mut response = match self.receive(&mut request, dialect).await {
                Ok(receipt) => receipt.into_response(dialect),
                Err(problem) => answer::refusal(problem, dialect),
            };
            allow.apply(origin.as_ref(), response.headers_mut());
            response
        };
        self.metrics.answered(response.status(), started.elapsed());
        response
    }
}

impl Service {
    /// The way of one request. An error means that nothing of it was kept, except where the log failed
    /// after it was.
    async fn receive(&self, request: &mut Request, dialect: Dialect) -> Result<Receipt, Problem> {
        if *request.method() != Method::POST {
            return Err(Problem::method_not_allowed(METHODS));
        }
        if !self.config.allow_origin.permits(request.headers()) {
            return Err(AllowOrigin::refusal());
        }
        request::check_content(request.headers())?;
        let wait = Wait::of(request.uri(), request.headers())?;
        let length = request.body().size_hint();
        if length.lower() > MAX_BODY_BYTES as u64 {
            let max_bytes = MAX_BODY_BYTES;
            return Err(BodyError::TooLarge { max_bytes }.into());
        }
        let most = request::most_reactions(length.exact());
        let room = self.buffer.reserve(most).ok_or_else(answer::buffer_full)?;
        let body = read_body(request, MAX_BODY_BYTES, self.config.body_time).await?;
        let read = Submissions::read(&body, &self.config.emojis, dialect.names())?;
        drop(body);
        let is_array = read.is_array;
        let (good, rejected) = self.admit(read);
        self.metrics.rejected.inc_by(rejected.len() as u64);
        if good.is_empty() && !rejected.is_empty() {
            return Err(answer::all_rejected(rejected, is_array));
        }
        let taken = good.len();
        self.keep(good, room, wait).await?;
        Ok(Receipt {
            taken,
            wait,
            rejected,
        })
    }
}

impl Service {
    /// The good entries whose rooms are taken too, and all that are not.
    fn admit(&self, read: Submissions) -> (Vec<Submission>, Vec<Rejection>) {
        let now = Instant::now();
        let mut rejected = read.bad;
        let mut good = Vec::with_capacity(read.good.len());
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, submission) in read.good {
            match rooms.enter(submission.room, now) {
                Ok(room) => good.push(Submission { room, ..submission }),
                Err(refused) => rejected.push(Rejection {
                    index,
                    detail: refused.to_string(),
                }),
            }
        }
        self.metrics.rooms.set(rooms.in_use() as i64);
        drop(rooms);
        rejected.sort_by_key(|rejection| rejection.index);
        (good, rejected)
    }

    /// Puts reactions into the buffer, and waits for the log if that is asked for.
    async fn keep(
        &self,
        good: Vec<Submission>,
        room: Reservation,
        wait: Wait,
    ) -> Result<(), Problem> {
        if good.is_empty() {
            return Ok(());
        }
        let now_ms = self.buffer.now_ms();
        for claimed_ms in good.iter().filter_map(|submission| submission.claimed_ms) {
            self.metrics.claimed(claimed_ms, now_ms);
        }
        let taken = good.len();
        let (stored, outcome) = match wait {
            Wait::Buffered => (None, None),
            Wait::Stored => {
                let (stored, outcome) = oneshot::channel();
                (Some(stored), Some(outcome))
            }
        };
        let added = self.buffer.add(good, room, stored);
        added.map_err(|Closed| answer::stopping())?;
        self.metrics.accepted.inc_by(taken as u64);
        let Some(outcome) = outcome else {
            return Ok(());
        };
        match timeout(self.config.flush + LOG_TIMEOUT + LOG_GRACE, outcome).await {
            Ok(outcome) => outcome
                .unwrap_or_else(|_| Err(silence()))
                .map_err(|error| answer::not_stored(&error)),
            Err(_) => Err(answer::not_yet_stored()),
        }
    }
}
