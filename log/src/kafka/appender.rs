//! Single records to Kafka, idempotently.
//!
//! Invariant: `done` is called once for every record that was taken: by the delivery report, which
//! librdkafka owes for each of them within the timeout, or when the rest is purged at the end.

#![allow(clippy::disallowed_methods, reason = "waits for librdkafka")]

use std::{
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Statistics,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header as KafkaHeader, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig},
};

use super::{
    config::{Config, REPLACE_EVERY, signed, unsigned},
    context::Events,
    denials::Denials,
    failure::{self, Operation},
};
use crate::{Appender, Done, LogError, NewRecord};

/// How often the polling thread looks whether it may end. Reports wake it at once; but rdkafka's `poll`
/// turns in circles for the last millisecond of its patience, so this is not short.
const POLL: Duration = Duration::from_millis(250);
/// While draining: how often it looks whether everything has been reported.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// The longest that a drop waits for what has been taken, however long its records may take.
const LINGER: Duration = Duration::from_secs(8);
/// How long a line with a fatal error is kept: another one may have the same.
const REPLACE_FATAL_EVERY: Duration = Duration::from_secs(1);
/// How librdkafka's report ends that the brokers give a producer no id. They ask for the permission to write to any one
/// topic, and their answer names the cluster.
const NO_PRODUCER_ID: &str = "Cluster authorization failed";
/// How often a line that was replaced looks whether everything on it has been answered.
const RETIRED_POLL: Duration = Duration::from_millis(100);

/// Dropping it waits, for `timeout` and [`LINGER`] at most, until everything taken has been answered.
pub(super) struct KafkaAppender {
    config: Config,
    settings: ClientConfig,
    timeout: Duration,
    line: Mutex<Line>,
}

/// A producer, and the thread that hears its reports.
struct Line {
    opened: Instant,
    producer: Arc<BaseProducer<Reports>>,
    closed: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
}

/// Reports each record's outcome to the caller that appended it.
struct Reports {
    events: Events,
    denials: Denials,
    /// Whether the producer is of no more use.
    is_fatal: AtomicBool,
    /// Whether that is because its principal may write to no topic at all: then the brokers give it no producer id.
    is_denied: AtomicBool,
}

impl Reports {
    /// What the failure of a record of `topic` means.
    fn meaning(&self, error: LogError, topic: &str) -> LogError {
        let error = match self.is_denied.load(Ordering::Acquire) {
            true => Operation::Write.denied(format!("topic {topic}")),
            false => error,
        };
        self.denials.note(error, Instant::now())
    }
}

/// Who waits for a report, and the record's time, which the report does not tell.
struct Waiting {
    /// A mutex, for librdkafka hands it from thread to thread.
    done: Mutex<Option<Done>>,
    time_ms: i64,
}

impl KafkaAppender {
    pub(super) fn open(
        config: &Config,
        settings: ClientConfig,
        timeout: Duration,
    ) -> Result<Self, LogError> {
        let line = Line::open(config, &settings, timeout)?;
        Ok(Self {
            config: config.clone(),
            settings,
            timeout,
            line: Mutex::new(line),
        })
    }

    /// The line to send on: a new one where the former has no broker to talk to, or a fatal error. What that has taken
    /// it still answers.
    fn line(&self) -> Result<MutexGuard<'_, Line>, LogError> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let (reports, age) = (line.producer.context(), line.opened.elapsed());
        let is_alone = reports.events.is_alone() && age > REPLACE_EVERY;
        if is_alone {
            tracing::warn!("an appender has no broker to talk to: it connects again");
        }
        if is_alone || reports.is_fatal.load(Ordering::Acquire) && age > REPLACE_FATAL_EVERY {
            let timeout = self.timeout;
            let new = Line::open(&self.config, &self.settings, timeout)?;
            let former = std::mem::replace(&mut *line, new);
            thread::spawn(move || former.retire(timeout));
        }
        Ok(line)
    }
}

impl Line {
    fn open(config: &Config, settings: &ClientConfig, timeout: Duration) -> Result<Self, LogError> {
        let reports = Reports {
            events: config.events(),
            denials: config.denials().clone(),
            is_fatal: AtomicBool::new(false),
            is_denied: AtomicBool::new(false),
        };
        let producer: BaseProducer<Reports> = config.create(settings, reports)?;
        let producer = Arc::new(producer);
        let closed = Arc::new(AtomicBool::new(false));
        let polling = thread::Builder::new()
            .name("kafka-appender".to_owned())
            .spawn({
                let (producer, closed) = (producer.clone(), closed.clone());
                move || report(&producer, &closed, timeout.min(LINGER))
            })
            .map_err(|error| LogError::Refused(format!("a thread cannot start: {error}")))?;
        Ok(Self {
            opened: Instant::now(),
            producer,
            closed,
            polling: Some(polling),
        })
    }

    /// Ends when everything taken has been answered.
    fn retire(self, timeout: Duration) {
        let until = Instant::now() + timeout;
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            thread::sleep(RETIRED_POLL);
        }
    }
}

/// Serves delivery reports until the appender is dropped and everything is reported.
fn report(producer: &BaseProducer<Reports>, closed: &AtomicBool, linger: Duration) {
    while !closed.load(Ordering::Acquire) {
        producer.poll(POLL);
    }
    let until = Instant::now() + linger;
    while producer.in_flight_count() > 0 && Instant::now() < until {
        producer.poll(DRAIN_POLL);
    }
    producer.purge(PurgeConfig::default().queue().inflight());
    producer.poll(DRAIN_POLL);
}

impl Drop for Line {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // A `done` may drop the appender, on the polling thread itself.
        let polling = self.polling.take();
        if let Some(polling) = polling.filter(|it| it.thread().id() != thread::current().id()) {
            // A panic there has been reported already.
            let _ = polling.join();
        }
    }
}

impl Appender for KafkaAppender {
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError> {
        let time_ms = time_ms(&record);
        let waiting = Box::new(Waiting {
            done: Mutex::new(Some(done)),
            time_ms,
        });
        let line = self.line()?;
        let sent = line.producer.send(kafka_record(&record, time_ms, waiting));
        sent.map_err(|(error, _)| {
            let partition = record.partition.unwrap_or_default();
            let error = failure::of_write(&error, &record.topic, partition, record.bytes())
                .unwrap_or_else(|| away(&error));
            line.producer.context().meaning(error, &record.topic)
        })
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.events.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.events.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if reason.ends_with(NO_PRODUCER_ID) {
            self.is_denied.store(true, Ordering::Release);
            self.is_fatal.store(true, Ordering::Release);
            return tracing::debug!("Kafka: {reason}");
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.is_fatal.store(true, Ordering::Release);
        }
        self.events.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        let done = waiting
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let outcome = outcome(result, waiting.time_ms);
        let outcome = outcome.map_err(|error| match result {
            Err((_, message)) => self.meaning(error, message.topic()),
            Ok(_) => error,
        });
        if let Ok(message) = result {
            self.denials
                .allow("Write", format_args!("topic {}", message.topic()));
        }
        if let Some(done) = done {
            done(outcome);
        }
    }
}

/// A record as librdkafka takes it; it copies what it needs.
pub(super) fn kafka_record<'a, Opaque: rdkafka::util::IntoOpaque>(
    record: &'a NewRecord,
    time_ms: i64,
    opaque: Opaque,
) -> BaseRecord<'a, [u8], [u8], Opaque> {
    let mut new = BaseRecord::with_opaque_to(&record.topic, opaque);
    // A record with neither belongs to the first partition; librdkafka would spread them.
    let partition = record.partition.or(record.key.is_none().then_some(0));
    new.partition = partition.map(signed);
    new.key = record.key.as_deref();
    // Under a key, nothing is what deletes the key from a compacted topic: Kafka's null.
    new.payload = (record.key.is_none() || !record.value.is_empty()).then_some(&record.value[..]);
    new.timestamp = Some(time_ms);
    new.headers = headers(record);
    new
}

/// The record's time as Kafka counts it.
pub(super) fn time_ms(record: &NewRecord) -> i64 {
    record
        .time_ms
        .map_or_else(now_ms, |ms| i64::try_from(ms).unwrap_or(i64::MAX))
}

fn headers(record: &NewRecord) -> Option<OwnedHeaders> {
    if record.headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(record.headers.len());
    Some(record.headers.iter().fold(empty, |headers, header| {
        headers.insert(KafkaHeader {
            key: &header.name,
            value: Some(&header.value[..]),
        })
    }))
}

/// What a delivery report says of a record of that time: the offset, or why there is none.
pub(super) fn outcome(result: &DeliveryResult<'_>, time_ms: i64) -> Result<u64, LogError> {
    let (error, message) = match result {
        Ok(message) => return Ok(unsigned(message.offset())),
        Err((error, message)) => (error, message),
    };
    let partition = u32::try_from(message.partition()).unwrap_or_default();
    let ahead_ms = unsigned(time_ms.saturating_sub(now_ms()));
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::InvalidTimestamp) && ahead_ms > 0 {
        return Err(LogError::Ahead {
            topic: message.topic().to_owned(),
            ahead_ms,
        });
    }
    let bytes = message.key_len() + message.payload_len();
    let known = failure::of_write(error, message.topic(), partition, bytes);
    Err(known.unwrap_or_else(|| away(error)))
}

fn away(error: &KafkaError) -> LogError {
    LogError::TimedOut {
        detail: error.to_string(),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
