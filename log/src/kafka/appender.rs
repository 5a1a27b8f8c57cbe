//! Appends single records to Kafka, idempotently.
//!
//! Invariant: `done` is called exactly once for every queued record: by its delivery report, which librdkafka returns
//! within the timeout, or when the remaining records are purged after the appender is dropped.

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
    config::{Config, REPLACE_INTERVAL, signed, unsigned},
    context::Events,
    denials::Denials,
    failure::{self, Operation},
};
use crate::{Appender, Done, LogError, NewRecord};

/// Interval at which the polling thread checks whether the appender was dropped. Delivery reports wake the thread at
/// once. The interval is not short, because rdkafka's `poll` busy-waits in the last millisecond of its timeout.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Interval at which the polling thread of a dropped appender checks whether all delivery reports have arrived.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum time for which dropping an appender waits for queued records, even if their own timeout is longer.
const LINGER: Duration = Duration::from_secs(8);
/// Minimum age of a producer with a fatal error before it is replaced. Its replacement may have the same error, so
/// producers must not be replaced without a pause.
const FATAL_REPLACE_INTERVAL: Duration = Duration::from_secs(1);
/// End of librdkafka's report that the brokers do not assign a producer id. The reason is that the principal may not
/// write to any topic, although the brokers' response names the cluster.
const NO_PRODUCER_ID: &str = "Cluster authorization failed";
/// Interval at which a replaced producer checks whether all of its records have delivery reports.
const RETIRED_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// An appender. Dropping it waits until all queued records have delivery reports, at most for the shorter of `timeout`
/// and [`LINGER`].
pub(super) struct KafkaAppender {
    config: Config,
    settings: ClientConfig,
    timeout: Duration,
    producer: Mutex<PolledProducer>,
}

/// A producer, and the thread that polls its delivery reports.
struct PolledProducer {
    opened: Instant,
    producer: Arc<BaseProducer<DeliveryReports>>,
    closed: Arc<AtomicBool>,
    polling: Option<JoinHandle<()>>,
}

/// Passes the result of each record to the caller that appended it.
struct DeliveryReports {
    events: Events,
    denials: Denials,
    /// Whether the producer cannot be used any more.
    is_fatal: AtomicBool,
    /// Whether the reason of the fatal error is that the principal may not write to any topic: then the brokers assign
    /// no producer id.
    is_denied: AtomicBool,
}

impl DeliveryReports {
    /// Returns the error of a failed record of `topic`, and stores it if it is a denial.
    fn write_error(&self, error: LogError, topic: &str) -> LogError {
        let error = match self.is_denied.load(Ordering::Acquire) {
            true => Operation::Write.denied(format!("topic {topic}")),
            false => error,
        };
        self.denials.note(error, Instant::now())
    }
}

/// The callback of a record, and the record's time, which the delivery report does not contain.
struct PendingAppend {
    /// The callback is in a mutex, since librdkafka passes it between threads.
    done: Mutex<Option<Done>>,
    time_ms: i64,
}

impl KafkaAppender {
    pub(super) fn open(
        config: &Config,
        settings: ClientConfig,
        timeout: Duration,
    ) -> Result<Self, LogError> {
        let polled = PolledProducer::open(config, &settings, timeout)?;
        Ok(Self {
            config: config.clone(),
            settings,
            timeout,
            producer: Mutex::new(polled),
        })
    }

    /// Returns the producer. A producer that has lost all brokers, or has a fatal error, is first replaced by a new
    /// one. The replaced producer still returns the delivery reports of its records.
    fn producer(&self) -> Result<MutexGuard<'_, PolledProducer>, LogError> {
        let mut polled = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        let (reports, age) = (polled.producer.context(), polled.opened.elapsed());
        let has_no_broker = reports.events.has_no_broker() && age > REPLACE_INTERVAL;
        if has_no_broker {
            tracing::warn!("an appender has no connection to a broker; it reconnects");
        }
        if has_no_broker || reports.is_fatal.load(Ordering::Acquire) && age > FATAL_REPLACE_INTERVAL
        {
            let timeout = self.timeout;
            let new = PolledProducer::open(&self.config, &self.settings, timeout)?;
            let former = std::mem::replace(&mut *polled, new);
            thread::spawn(move || former.retire(timeout));
        }
        Ok(polled)
    }
}

impl PolledProducer {
    fn open(config: &Config, settings: &ClientConfig, timeout: Duration) -> Result<Self, LogError> {
        let reports = DeliveryReports {
            events: config.events(),
            denials: config.denials().clone(),
            is_fatal: AtomicBool::new(false),
            is_denied: AtomicBool::new(false),
        };
        let producer: BaseProducer<DeliveryReports> = config.create(settings, reports)?;
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

    /// Waits until all queued records have delivery reports, at most for `timeout`. Then drops the producer.
    fn retire(self, timeout: Duration) {
        let until = Instant::now() + timeout;
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            thread::sleep(RETIRED_POLL_INTERVAL);
        }
    }
}

/// Polls delivery reports until the appender is dropped and all records have a report. Purges the records that have
/// none when `linger` is over.
fn report(producer: &BaseProducer<DeliveryReports>, closed: &AtomicBool, linger: Duration) {
    while !closed.load(Ordering::Acquire) {
        producer.poll(POLL_INTERVAL);
    }
    let until = Instant::now() + linger;
    while producer.in_flight_count() > 0 && Instant::now() < until {
        producer.poll(DRAIN_POLL_INTERVAL);
    }
    producer.purge(PurgeConfig::default().queue().inflight());
    producer.poll(DRAIN_POLL_INTERVAL);
}

impl Drop for PolledProducer {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // A `done` callback may drop the appender on the polling thread, which cannot join itself.
        let polling = self.polling.take();
        if let Some(polling) = polling.filter(|it| it.thread().id() != thread::current().id()) {
            // If the thread panicked, the panic was reported when it occurred.
            let _ = polling.join();
        }
    }
}

impl Appender for KafkaAppender {
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError> {
        let time_ms = time_ms(&record);
        let pending = Box::new(PendingAppend {
            done: Mutex::new(Some(done)),
            time_ms,
        });
        let polled = self.producer()?;
        let sent = polled
            .producer
            .send(kafka_record(&record, time_ms, pending));
        sent.map_err(|(error, _)| {
            let partition = record.partition.unwrap_or_default();
            let error = failure::of_write(&error, &record.topic, partition, record.bytes())
                .unwrap_or_else(|| timed_out(&error));
            polled.producer.context().write_error(error, &record.topic)
        })
    }
}

impl ClientContext for DeliveryReports {
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

impl ProducerContext for DeliveryReports {
    type DeliveryOpaque = Box<PendingAppend>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<PendingAppend>) {
        let done = pending
            .done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let outcome = outcome(result, pending.time_ms);
        let outcome = outcome.map_err(|error| match result {
            Err((_, message)) => self.write_error(error, message.topic()),
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

/// Converts a record for librdkafka, which copies the data that it needs.
pub(super) fn kafka_record<'a, Opaque: rdkafka::util::IntoOpaque>(
    record: &'a NewRecord,
    time_ms: i64,
    opaque: Opaque,
) -> BaseRecord<'a, [u8], [u8], Opaque> {
    let mut new = BaseRecord::with_opaque_to(&record.topic, opaque);
    // A record without partition and key goes to partition 0, as on the embedded log; librdkafka would distribute such
    // records.
    let partition = record.partition.or(record.key.is_none().then_some(0));
    new.partition = partition.map(signed);
    new.key = record.key.as_deref();
    // An empty value of a record with a key means a tombstone, whose value is null in Kafka.
    new.payload = (record.key.is_none() || !record.value.is_empty()).then_some(&record.value[..]);
    new.timestamp = Some(time_ms);
    new.headers = headers(record);
    new
}

/// Returns the time of the record as Kafka represents it.
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

/// Returns the offset in a delivery report, or the error. `time_ms` is the time of the record, which the report does
/// not contain.
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
    Err(known.unwrap_or_else(|| timed_out(error)))
}

fn timed_out(error: &KafkaError) -> LogError {
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
