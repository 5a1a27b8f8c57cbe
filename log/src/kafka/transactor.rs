//! Transactions on Kafka.
//!
//! ```text
//! begin ─▶ send as it comes ─▶ poll until every report is in ─▶ commit
//!               └── first failure ──▶ abort, once ──▶ of no more use
//! ```
//!
//! A transaction that its owner drops before its end is aborted: readers would wait for its timeout.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Statistics,
    client::OAuthToken,
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

/// How long a transactor that is dropped tries to abort what it has open. A stop waits for it, and a broker
/// that is away will hear of it from the next transactor anyway.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// How often the producer is polled while its owner does not, where it authenticates by a token.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// How long a transaction that failed waits to learn whether its topics still exist.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

/// What a single broker with Kafka's default settings lacks; it answers such a request with silence.
const ONE_BROKER_HINT: &str = "on a cluster of one broker, set offsets.topic.replication.factor, transaction.state.log.replication.factor and transaction.state.log.min.isr to 1";

pub(super) struct KafkaTransactor {
    producer: Arc<BaseProducer<Failures>>,
    /// Ends the thread that polls in between when it is dropped.
    _polling: Option<Sender<()>>,
    failures: Failures,
    id: String,
    timeout: Duration,
    /// Where the records of the open transaction go: as many as there are topics.
    topics: BTreeSet<String>,
    /// Whether a transaction has begun and not ended.
    open: bool,
    failed: bool,
}

/// Keeps the first record that failed.
#[derive(Clone)]
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
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.events.token()
    }

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
        let failures = Failures {
            events: config.events(),
            first: Arc::default(),
        };
        let settings = config.transactional(id, timeout);
        let producer: BaseProducer<Failures> = config.create(&settings, failures.clone())?;
        let producer = Arc::new(producer);
        // Gives it the first token, without which `init_transactions` would wait in vain.
        producer.poll(Duration::ZERO);
        let polling = config
            .tokens()
            .map(|_| poll_in_between(&producer))
            .transpose()?;
        let opened = Self {
            producer,
            _polling: polling,
            failures,
            id: id.to_owned(),
            timeout,
            topics: BTreeSet::new(),
            open: false,
            failed: false,
        };
        match opened.producer.init_transactions(timeout.max(PATIENCE)) {
            Ok(()) => Ok(opened),
            Err(error) if failure::is_fence(&error) => Err(LogError::Fenced { id: id.to_owned() }),
            Err(error) => Err(match failure::code(&error) {
                _ if let Some(report) = opened.failures.events.last_about_security()
                    && let Some(error) = failure::security(config.brokers(), &report) =>
                {
                    error
                }
                Some(
                    RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::CoordinatorNotAvailable,
                ) => LogError::TimedOut {
                    detail: format!("{error}; {ONE_BROKER_HINT}"),
                },
                _ => LogError::Refused(error.to_string()),
            }),
        }
    }

    fn try_write(&mut self, records: &[NewRecord]) -> Result<(), LogError> {
        let until = Instant::now() + self.timeout;
        if !self.open {
            self.producer
                .begin_transaction()
                .map_err(|error| self.why(&error))?;
            self.open = true;
            self.topics.clear();
        }
        for record in records {
            if !self.topics.contains(&record.topic) {
                self.topics.insert(record.topic.clone());
            }
            self.send(record, until)?;
        }
        // What was delivered is forgotten; what failed is found at the end.
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    fn try_commit(&mut self, records: &[NewRecord]) -> Result<(), LogError> {
        let until = Instant::now() + self.timeout;
        self.try_write(records)?;
        while self.producer.in_flight_count() > 0 && !self.failures.any() {
            if Instant::now() >= until {
                let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
                return Err(LogError::TimedOut {
                    detail: format!("the transaction's records of {}", topics.join(", ")),
                });
            }
            self.serve();
        }
        if let Some(error) = self.failures.take() {
            return Err(error);
        }
        // The report of a failed record may still be with the thread that polls in between.
        self.producer
            .commit_transaction(self.timeout)
            .map_err(|error| self.failures.take().unwrap_or_else(|| self.why(&error)))?;
        self.open = false;
        Ok(())
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

    /// Does a step of a transaction, unless an earlier one failed.
    fn attempt(
        &mut self,
        step: impl FnOnce(&mut KafkaTransactor) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        if self.failed {
            let detail = "an earlier one failed; open a new transactor".to_owned();
            return Err(LogError::Aborted { detail });
        }
        step(self).map_err(|error| {
            self.failed = true;
            self.abort(error)
        })
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
            LogError::Refused(_) | LogError::TimedOut { .. } | LogError::Aborted { .. }
                if let Some(deleted) = self.deleted_topic() =>
            {
                deleted
            }
            LogError::Refused(detail) | LogError::TimedOut { detail } => {
                LogError::Aborted { detail }
            }
            first => first,
        }
    }

    /// The topic that records could not be written to because it is gone, if there is one. librdkafka keeps
    /// such records until their time is over, and says of them only that it was.
    fn deleted_topic(&self) -> Option<LogError> {
        let client = self.producer.client();
        for topic in &self.topics {
            // A cluster that is away is another reason.
            let metadata = client.fetch_metadata(Some(topic), METADATA_PATIENCE).ok()?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            let code = found.and_then(|found| found.error());
            if code.map(RDKafkaErrorCode::from) == Some(RDKafkaErrorCode::UnknownTopicOrPartition) {
                return Some(LogError::UnknownTopic {
                    topic: topic.clone(),
                });
            }
        }
        None
    }
}

/// Polls the producer while its owner has nothing to send, or waits for Kafka: librdkafka asks for a new token in
/// a poll only. Reports that come meanwhile are the owner's all the same.
fn poll_in_between(producer: &Arc<BaseProducer<Failures>>) -> Result<Sender<()>, LogError> {
    let (stop, stopped) = channel::<()>();
    // Dropped by its owner, which closes it.
    let producer = Arc::downgrade(producer);
    let poll = move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(POLL_EVERY) {
            match producer.upgrade() {
                Some(producer) => producer.poll(Duration::ZERO),
                None => return,
            }
        }
    };
    let named = thread::Builder::new().name("kafka-transactor".to_owned());
    match named.spawn(poll) {
        Ok(_) => Ok(stop),
        Err(error) => Err(LogError::Refused(format!("a thread cannot start: {error}"))),
    }
}

impl Transactor for KafkaTransactor {
    fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.attempt(|it| it.try_write(&records))
    }

    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.attempt(|it| it.try_commit(&records))
    }
}

impl Drop for KafkaTransactor {
    fn drop(&mut self) {
        if self.open && !self.failed {
            // If that fails, the next transactor of the id does it, or the timeout.
            let _ = self.producer.abort_transaction(ABORT_PATIENCE);
        }
    }
}
