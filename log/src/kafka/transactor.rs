//! Transactions on Kafka.
//!
//! ```text
//! begin ─▶ send all ─▶ poll until every report is in ─▶ commit
//!               └── first failure ──▶ abort, once ──▶ of no more use
//! ```

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, Producer, ProducerContext},
};

use super::{
    PATIENCE,
    appender::{kafka_record, outcome, time_ms},
    config::Config,
    context::Events,
    failure,
};
use crate::{LogError, NewRecord, Transactor};

/// How long to sleep when no report is in. librdkafka's own `flush` looks every 100 ms, and a commit
/// would take that long; rdkafka's `poll` turns in circles for the last millisecond of its patience.
const PAUSE: Duration = Duration::from_micros(500);

/// What a single broker with Kafka's default settings lacks; it answers such a request with silence.
const ONE_BROKER_HINT: &str = "on a cluster of one broker, set offsets.topic.replication.factor, transaction.state.log.replication.factor and transaction.state.log.min.isr to 1";

pub(super) struct KafkaTransactor {
    producer: BaseProducer<Failures>,
    failures: Failures,
    id: String,
    timeout: Duration,
    failed: bool,
}

/// Keeps the first record that failed.
#[derive(Clone, Default)]
struct Failures {
    events: Events,
    first: Arc<Mutex<Option<LogError>>>,
}

impl Failures {
    fn take(&self) -> Option<LogError> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn any(&self) -> bool {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

impl ClientContext for Failures {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.events.log(level, facility, message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        // Being fenced is an answer, and told as such.
        if !failure::is_fence(&error) && error.rdkafka_error_code() != Some(RDKafkaErrorCode::Fatal)
        {
            self.events.error(error, reason);
        }
    }
}

impl ProducerContext for Failures {
    /// The record's time.
    type DeliveryOpaque = Box<i64>;

    fn delivery(&self, result: &DeliveryResult<'_>, time_ms: Box<i64>) {
        if let Err(error) = outcome(result, *time_ms) {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    }
}

impl KafkaTransactor {
    /// Fences every older transactor of `id`, and aborts what it left open.
    pub(super) fn open(config: &Config, id: &str, timeout: Duration) -> Result<Self, LogError> {
        let failures = Failures::default();
        let settings = config.transactional(id, timeout);
        let producer: BaseProducer<Failures> = config.create(&settings, failures.clone())?;
        let opened = Self {
            producer,
            failures,
            id: id.to_owned(),
            timeout,
            failed: false,
        };
        match opened.producer.init_transactions(timeout.max(PATIENCE)) {
            Ok(()) => Ok(opened),
            Err(error) if failure::is_fence(&error) => Err(LogError::Fenced { id: id.to_owned() }),
            Err(error) => Err(match failure::code(&error) {
                Some(
                    RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::CoordinatorNotAvailable,
                ) => LogError::TimedOut {
                    detail: format!("{error}; {ONE_BROKER_HINT}"),
                },
                _ => LogError::Refused(error.to_string()),
            }),
        }
    }

    fn try_commit(&self, records: &[NewRecord]) -> Result<(), LogError> {
        let until = Instant::now() + self.timeout;
        self.producer
            .begin_transaction()
            .map_err(|error| self.why(&error))?;
        for record in records {
            self.send(record, until)?;
        }
        while self.producer.in_flight_count() > 0 && !self.failures.any() {
            if Instant::now() >= until {
                return Err(LogError::TimedOut {
                    detail: "the transaction's records".to_owned(),
                });
            }
            self.serve();
        }
        if let Some(error) = self.failures.take() {
            return Err(error);
        }
        self.producer
            .commit_transaction(self.timeout)
            .map_err(|error| self.why(&error))
    }

    /// Sends one record; waits while librdkafka's queue is full.
    fn send(&self, record: &NewRecord, until: Instant) -> Result<(), LogError> {
        loop {
            let time_ms = time_ms(record);
            let sent = self
                .producer
                .send(kafka_record(record, time_ms, Box::new(time_ms)));
            let Err((error, _)) = sent else { return Ok(()) };
            let full = failure::code(&error) == Some(RDKafkaErrorCode::QueueFull);
            if !full || Instant::now() >= until {
                let partition = record.partition.unwrap_or_default();
                let known = failure::of(&error, &record.topic, partition);
                return Err(known.unwrap_or_else(|| self.why(&error)));
            }
            self.serve();
        }
    }

    /// Takes delivery reports in, or sleeps a little if there are none.
    fn serve(&self) {
        let before = self.producer.in_flight_count();
        self.producer.poll(Duration::ZERO);
        if self.producer.in_flight_count() == before {
            thread::sleep(PAUSE);
        }
    }

    fn why(&self, error: &KafkaError) -> LogError {
        if failure::is_fence(error) {
            return LogError::Fenced {
                id: self.id.clone(),
            };
        }
        LogError::Aborted {
            detail: error.to_string(),
        }
    }

    /// Ends the failed transaction, and says what it failed of: a fence outweighs what followed from it.
    fn abort(&self, first: LogError) -> LogError {
        let aborted = self.producer.abort_transaction(self.timeout);
        self.producer.poll(Duration::ZERO);
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let fenced = fatal.is_some_and(failure::fences)
            || aborted.is_err_and(|error| failure::is_fence(&error));
        match first {
            _ if fenced => LogError::Fenced {
                id: self.id.clone(),
            },
            LogError::Refused(detail) | LogError::TimedOut { detail } => {
                LogError::Aborted { detail }
            }
            first => first,
        }
    }
}

impl Transactor for KafkaTransactor {
    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        if self.failed {
            let detail = "an earlier one failed; open a new transactor".to_owned();
            return Err(LogError::Aborted { detail });
        }
        self.try_commit(&records).map_err(|error| {
            self.failed = true;
            self.abort(error)
        })
    }
}
