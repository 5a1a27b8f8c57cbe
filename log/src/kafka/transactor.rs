//! Transactions on Kafka.
//!
//! ```text
//! begin ─▶ send records ─▶ poll until all delivery reports have arrived ─▶ commit
//!               └── first failure ──▶ abort, once ──▶ cannot be used any more
//! ```
//!
//! A transactor that is dropped aborts its open transaction: otherwise readers would wait for the timeout of the
//! transaction.
//!
//! Brokers refuse a batch as a whole if it is larger than the topic accepts, even if each of its records is small
//! enough. After such a failure, new transactors of this log send each record alone, so that [`LogError::NotAccepted`]
//! is about one record.

#![allow(
    clippy::disallowed_methods,
    reason = "computes the deadlines of transactions"
)]

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Statistics,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, Producer, ProducerContext},
};

use super::{
    appender::{kafka_record, outcome, time_ms},
    config::Config,
    context::Events,
    failure::{self, Operation},
};
use crate::{LogError, NewRecord, Transactor};

/// Pause before the next poll if there was no delivery report. librdkafka's own `flush` checks only every 100 ms, so a
/// commit would take that long, and rdkafka's `poll` busy-waits in the last millisecond of its timeout.
const PAUSE: Duration = Duration::from_micros(500);

/// Timeout for fencing older transactors and aborting their open transactions.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of the abort of a transaction that failed, or whose transactor is dropped. It is short, since the caller
/// waits for the abort, and the next transactor of the id aborts the transaction in any case.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval at which a thread polls a producer with a token while the producer's owner does not poll it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// End of librdkafka's log line about a topic that the client may not write to.
const TOPIC_DENIED: &str = "Topic authorization failed";

/// End of librdkafka's report that the client may not use the transactional id any more.
const ID_DENIED: &str = "Transactional Id authorization failed";

/// A transaction is aborted this long before its timeout, since after the timeout the brokers respond as if the
/// transactor had been fenced.
const ABORT_MARGIN: Duration = Duration::from_secs(3);

/// Minimum time that a commit waits for its response.
const COMMIT_STEP: Duration = Duration::from_secs(1);

/// Timeout of one call of librdkafka's abort. Between two calls, delivery reports are polled, which the abort needs.
const ABORT_STEP: Duration = Duration::from_millis(50);

/// Timeout of the request that checks whether the topics of a transaction still exist.
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// Time without a delivery report after which a transaction checks whether its topics still exist: librdkafka keeps the
/// records of a deleted topic until they time out.
const DELETED_CHECK_AFTER: Duration = Duration::from_secs(5);

/// Hint for a cluster of one broker: with Kafka's default settings, it does not respond to a transactional producer.
const ONE_BROKER_HINT: &str = "on a cluster of one broker, set offsets.topic.replication.factor, transaction.state.log.replication.factor and transaction.state.log.min.isr to 1";

pub(super) struct KafkaTransactor {
    producer: Arc<BaseProducer<Failures>>,
    /// Dropping this sender ends the thread of [`poll_in_between`].
    _polling: Option<Sender<()>>,
    failures: Failures,
    config: Config,
    id: String,
    timeout: Duration,
    /// Whether each record is sent alone, not in batches.
    singly: bool,
    /// The topics of the open transaction.
    topics: BTreeSet<String>,
    /// Time by which the open transaction has to be committed.
    open_until: Option<Instant>,
    failed: bool,
}

/// Stores the error of the first record that failed. A denial replaces that error: if a transaction may not write to a
/// topic, librdkafka purges the transaction's other records, and their errors only report that.
#[derive(Clone)]
struct Failures {
    events: Events,
    id: String,
    first: Arc<Mutex<Option<LogError>>>,
}

impl Failures {
    fn first(&self) -> MutexGuard<'_, Option<LogError>> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, error: LogError) {
        let mut first = self.first();
        let outweighs = matches!(error, LogError::Denied { .. })
            && !matches!(*first, Some(LogError::Denied { .. }));
        if first.is_none() || outweighs {
            *first = Some(error);
        }
    }
}

/// Returns the topic in librdkafka's log line about a topic that was not added to the transaction because of a missing
/// permission. No other interface of librdkafka names the topic.
fn denied_topic(facility: &str, line: &str) -> Option<String> {
    let denied = facility == "ADDPARTS" && line.ends_with(TOPIC_DENIED);
    let (_, from_topic) = line.split_once('"').filter(|_| denied)?;
    let (topic, _) = from_topic.split_once('"')?;
    Some(topic.to_owned())
}

impl ClientContext for Failures {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.events.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if let Some(topic) = denied_topic(facility, message) {
            self.add(Operation::Write.denied(format!("topic {topic}")));
        }
        self.events.log(level, facility, message);
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        if reason.ends_with(ID_DENIED) {
            self.add(Operation::Write.denied(format!("transactional id {}", self.id)));
        }
        // Fences and fatal errors are not logged here, since the failed call returns them.
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
            self.add(error);
        }
    }
}

impl KafkaTransactor {
    /// Fences every older transactor of `id`, and aborts its open transaction.
    pub(super) fn open(config: &Config, id: &str, timeout: Duration) -> Result<Self, LogError> {
        let failures = Failures {
            events: config.events(),
            id: id.to_owned(),
            first: Arc::default(),
        };
        let singly = config.sends_singly();
        let settings = config.transactional(id, timeout);
        let producer: BaseProducer<Failures> = config.create(&settings, failures.clone())?;
        let producer = Arc::new(producer);
        // Gives the producer its first token, without which `init_transactions` would time out.
        producer.poll(Duration::ZERO);
        let polling = config
            .tokens()
            .map(|_| poll_in_between(&producer))
            .transpose()?;
        let opened = Self {
            producer,
            _polling: polling,
            failures,
            config: config.clone(),
            id: id.to_owned(),
            timeout,
            singly,
            topics: BTreeSet::new(),
            open_until: None,
            failed: false,
        };
        match opened.producer.init_transactions(INIT_TIMEOUT) {
            Ok(()) => Ok(opened),
            Err(_) if opened.fatal() == Some(RDKafkaErrorCode::InvalidTransactionTimeout) => {
                Err(LogError::TransactionTimeout { timeout })
            }
            Err(error) if failure::is_fence(&error) => Err(LogError::Fenced { id: id.to_owned() }),
            Err(error) => Err(match failure::code(&error) {
                _ if let Some(report) = opened.failures.events.last_about_security()
                    && let Some(error) = failure::security(config.brokers(), &report) =>
                {
                    error
                }
                Some(code) if failure::is_denial(code) => {
                    Operation::Write.denied(format!("transactional id {id}"))
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

    /// Sends records in the open transaction, or begins one. Returns the time by which the transaction has to be
    /// committed.
    fn try_write(&mut self, records: &[NewRecord]) -> Result<Instant, LogError> {
        let until = match self.open_until {
            Some(until) => until,
            None => {
                self.producer
                    .begin_transaction()
                    .map_err(|error| self.why(&error))?;
                self.topics.clear();
                // A failure that is stored here was reported late and belongs to the previous transaction, so it is
                // removed.
                self.failures.first().take();
                let until = Instant::now() + self.timeout - ABORT_MARGIN.min(self.timeout / 4);
                *self.open_until.insert(until)
            }
        };
        for record in records {
            if !self.topics.contains(&record.topic) {
                self.topics.insert(record.topic.clone());
            }
            self.send(record, until)?;
        }
        // This poll drops the delivery reports of stored records. Errors remain in `Failures` until the commit.
        self.producer.poll(Duration::ZERO);
        Ok(until)
    }

    fn try_commit(&mut self, records: &[NewRecord]) -> Result<(), LogError> {
        let until = self.try_write(records)?;
        self.deliver(until)?;
        let left = until.saturating_duration_since(Instant::now());
        // If the commit fails, a stored failure is the reason: the thread of `poll_in_between` may store the failure of
        // a record after `deliver` has returned.
        self.producer
            .commit_transaction(left.max(COMMIT_STEP))
            .map_err(|error| {
                self.failures
                    .first()
                    .take()
                    .unwrap_or_else(|| self.why(&error))
            })?;
        self.open_until = None;
        Ok(())
    }

    /// Waits until all records are in the log. Returns the first failure of a record as soon as there is one.
    fn deliver(&self, until: Instant) -> Result<(), LogError> {
        let (mut left, mut look) = (0, Instant::now() + DELETED_CHECK_AFTER);
        while self.producer.in_flight_count() > 0 && self.failures.first().is_none() {
            let now = Instant::now();
            if now >= until {
                return Err(self.timed_out());
            }
            if self.producer.in_flight_count() != left {
                (left, look) = (self.producer.in_flight_count(), now + DELETED_CHECK_AFTER);
            } else if now >= look {
                look = now + DELETED_CHECK_AFTER;
                self.deleted_topic().map_or(Ok(()), Err)?;
            }
            self.serve();
        }
        match self.failures.first().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Sends one record. Waits while librdkafka's queue is full.
    fn send(&self, record: &NewRecord, until: Instant) -> Result<(), LogError> {
        loop {
            let time_ms = time_ms(record);
            let sent = self
                .producer
                .send(kafka_record(record, time_ms, Box::new(time_ms)));
            let Err((error, _)) = sent else { return Ok(()) };
            if failure::code(&error) != Some(RDKafkaErrorCode::QueueFull) {
                let partition = record.partition.unwrap_or_default();
                let known = failure::of_write(&error, &record.topic, partition, record.bytes());
                return Err(known.unwrap_or_else(|| self.why(&error)));
            }
            if Instant::now() >= until {
                return Err(self.timed_out());
            }
            self.serve();
        }
    }

    fn timed_out(&self) -> LogError {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let detail = format!("the transaction's records of {}", topics.join(", "));
        LogError::TimedOut { detail }
    }

    /// Polls delivery reports, or sleeps a little if there are none.
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
        let detail = error.to_string();
        match failure::code(error) {
            Some(RDKafkaErrorCode::OperationTimedOut) => LogError::TimedOut { detail },
            _ => LogError::Aborted { detail },
        }
    }

    /// Returns the fatal error of the producer, if it has one.
    fn fatal(&self) -> Option<RDKafkaErrorCode> {
        self.producer.client().fatal_error().map(|(code, _)| code)
    }

    /// Executes a step of the transaction, unless an earlier one has failed.
    fn attempt<T>(
        &mut self,
        step: impl FnOnce(&mut KafkaTransactor) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        if self.failed {
            let detail = "an earlier transaction failed; open a new transactor".to_owned();
            return Err(LogError::Aborted { detail });
        }
        step(self).map_err(|error| {
            self.failed = true;
            self.config
                .denials()
                .note(self.abort(error), Instant::now())
        })
    }

    /// Aborts the open transaction. librdkafka ends the abort only when the delivery reports of all records were
    /// polled. So this function alternately polls and calls the abort again, which continues it.
    fn abort_within(&self, timeout: Duration) -> KafkaResult<()> {
        let until = Instant::now() + timeout;
        loop {
            match self.producer.abort_transaction(ABORT_STEP) {
                Err(KafkaError::Transaction(error))
                    if error.is_retriable() && Instant::now() < until =>
                {
                    self.serve();
                }
                aborted => {
                    self.producer.poll(Duration::ZERO);
                    return aborted;
                }
            }
        }
    }

    /// Aborts the failed transaction. Returns the reason of the failure: a fence or a denial, if there is one, since it
    /// causes other errors; otherwise `first`, or a more exact error.
    fn abort(&self, first: LogError) -> LogError {
        let aborted = self.abort_within(ABORT_TIMEOUT);
        // A denial that is reported only during the abort has caused `first`, so it replaces `first`.
        let reported = self.failures.first().take();
        let first = match reported {
            Some(denied @ LogError::Denied { .. }) => denied,
            _ => first,
        };
        let fenced = self.fatal().is_some_and(failure::fences)
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
            LogError::Refused(detail) => LogError::Aborted { detail },
            LogError::NotAccepted { .. } if !self.singly => {
                self.config.send_singly();
                let detail = format!("{first}; from now on each record is sent alone");
                LogError::Aborted { detail }
            }
            first => first,
        }
    }

    /// Returns the error for a topic that was deleted during the transaction, if there is one.
    fn deleted_topic(&self) -> Option<LogError> {
        let client = self.producer.client();
        for topic in &self.topics {
            // If the cluster does not respond, this is the reason of the failure, and not a deleted topic.
            let metadata = client.fetch_metadata(Some(topic), METADATA_TIMEOUT).ok()?;
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

/// Starts a thread that polls the producer while its owner has nothing to send, or waits for Kafka: librdkafka requests
/// a new token only in a poll. If this thread polls a delivery report with an error, the owner gets the error through
/// [`Failures`].
fn poll_in_between(producer: &Arc<BaseProducer<Failures>>) -> Result<Sender<()>, LogError> {
    let (stop, stopped) = channel::<()>();
    // The thread holds only a weak reference, so that the producer is closed when its owner drops it.
    let producer = Arc::downgrade(producer);
    let poll = move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(POLL_INTERVAL) {
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
        self.attempt(|it| it.try_write(&records)).map(drop)
    }

    fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
        self.attempt(|it| it.try_commit(&records))?;
        for topic in &self.topics {
            let denials = self.config.denials();
            denials.allow("Write", format_args!("topic {topic}"));
        }
        Ok(())
    }
}

impl Drop for KafkaTransactor {
    fn drop(&mut self) {
        if self.open_until.is_some() && !self.failed {
            // If the abort fails, the next transactor of the id aborts the transaction, or its timeout does.
            let _ = self.abort_within(ABORT_TIMEOUT);
        }
    }
}
