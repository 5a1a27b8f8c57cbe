//! Transactions on Kafka.
//!
//! ```text
//! begin ─▶ send as it comes ─▶ poll until every report is in ─▶ commit
//!               └── first failure ──▶ abort, once ──▶ of no more use
//! ```
//!
//! A transaction that its owner drops before its end is aborted: readers would wait for its timeout.
//!
//! A transaction that failed because a permission is missing is reported only once writing was allowed again, or
//! denied for [`KafkaOptions::denial_patience`]: until then a record of it is written in transactions that are
//! aborted, so that readers of committed records see none of them.
//!
//! [`KafkaOptions::denial_patience`]: super::KafkaOptions::denial_patience

use std::{
    collections::BTreeMap,
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
    PATIENCE,
    appender::{kafka_record, outcome, time_ms},
    config::Config,
    context::Events,
    denials,
    failure::{self, Operation},
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

/// How librdkafka ends a line about a topic that may not be written to.
const TOPIC_DENIED: &str = "Topic authorization failed";

/// How librdkafka's report ends that the transactional id may not be used any more.
const ID_DENIED: &str = "Transactional Id authorization failed";

/// How long one call of an abort waits before delivery reports are polled.
const ABORT_STEP: Duration = Duration::from_millis(50);

/// How long a transaction that failed waits to learn whether its topics still exist.
const METADATA_PATIENCE: Duration = Duration::from_secs(2);

/// What a single broker with Kafka's default settings lacks; it answers such a request with silence.
const ONE_BROKER_HINT: &str = "on a cluster of one broker, set offsets.topic.replication.factor, transaction.state.log.replication.factor and transaction.state.log.min.isr to 1";

pub(super) struct KafkaTransactor {
    producer: Arc<BaseProducer<Failures>>,
    /// Dropping it ends the thread that polls in between.
    _polling: Option<Sender<()>>,
    failures: Failures,
    config: Config,
    id: String,
    timeout: Duration,
    /// Where the records of the open transaction go, and the first for each topic.
    topics: BTreeMap<String, NewRecord>,
    /// Whether a transaction has begun and not ended.
    open: bool,
    failed: bool,
}

/// Keeps the error of the first record that failed, or a denial, which replaces it: librdkafka purges the other records
/// of a transaction that may not write to a topic, and reports them as purged.
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

/// The topic in a log line of librdkafka that reports that it was not added to the transaction because a permission is
/// missing. No other interface of librdkafka names the topic.
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
            self.add(error);
        }
    }
}

impl KafkaTransactor {
    /// Fences every older transactor of `id`, and aborts what it left open.
    pub(super) fn open(config: &Config, id: &str, timeout: Duration) -> Result<Self, LogError> {
        let failures = Failures {
            events: config.events(),
            id: id.to_owned(),
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
            config: config.clone(),
            id: id.to_owned(),
            timeout,
            topics: BTreeMap::new(),
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

    fn try_write(&mut self, records: &[NewRecord]) -> Result<(), LogError> {
        let until = Instant::now() + self.timeout;
        if !self.open {
            self.producer
                .begin_transaction()
                .map_err(|error| self.why(&error))?;
            self.open = true;
            self.topics.clear();
            // A failure that was reported late belongs to the former transaction.
            self.failures.first().take();
        }
        for record in records {
            if !self.topics.contains_key(&record.topic) {
                self.topics.insert(record.topic.clone(), record.clone());
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
        self.deliver(until)?;
        // The report of a failed record may still be with the thread that polls in between.
        self.producer
            .commit_transaction(self.timeout)
            .map_err(|error| {
                self.failures
                    .first()
                    .take()
                    .unwrap_or_else(|| self.why(&error))
            })?;
        self.open = false;
        Ok(())
    }

    /// Waits until every record is in the log; the first failure ends it.
    fn deliver(&self, until: Instant) -> Result<(), LogError> {
        while self.producer.in_flight_count() > 0 && self.failures.first().is_none() {
            if Instant::now() >= until {
                let topics: Vec<&str> = self.topics.keys().map(String::as_str).collect();
                return Err(LogError::TimedOut {
                    detail: format!("the transaction's records of {}", topics.join(", ")),
                });
            }
            self.serve();
        }
        match self.failures.first().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
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
                let known = failure::of(&error, Operation::Write, &record.topic, partition);
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
            match self.abort(error) {
                denied @ LogError::Denied { .. } => self.outlast(denied),
                error => error,
            }
        })
    }

    /// Writes to the topic that was denied, in transactions that are aborted, until the write is allowed or was denied
    /// for `denial_patience`. Returns the error to report for the original transaction.
    fn outlast(&mut self, mut denied: LogError) -> LogError {
        loop {
            denied = self.config.denials().note(denied, Instant::now());
            let LogError::Denied { resource, .. } = &denied else {
                return denied;
            };
            let mut records = self.topics.iter();
            let written = records.find(|(topic, _)| *resource == format!("topic {topic}"));
            let Some((_, record)) = written.filter(|_| !self.config.denials().is_final(&denied))
            else {
                return denied;
            };
            let (record, resource) = (record.clone(), resource.clone());
            thread::sleep(denials::RETRY_EVERY);
            match self.probe(&record) {
                Ok(()) => {
                    self.config
                        .denials()
                        .allow("Write", format_args!("{resource}"));
                    let detail = format!("Write on {resource} was denied, and is allowed again");
                    return LogError::Aborted { detail };
                }
                Err(error) => denied = error,
            }
        }
    }

    /// Writes a record in a transaction of its own, which is aborted. It needs another producer: Kafka does not let a
    /// producer end a transaction to which it could add no partition.
    fn probe(&self, record: &NewRecord) -> Result<(), LogError> {
        let until = Instant::now() + self.timeout;
        let other = Self::open(&self.config, &self.id, self.timeout)?;
        let begun = other.producer.begin_transaction();
        let written = begun
            .map_err(|error| other.why(&error))
            .and_then(|()| other.send(record, until))
            .and_then(|()| other.deliver(until));
        // If this fails, the next transactor of the id aborts it.
        let _ = other.abort_within(ABORT_PATIENCE);
        written
    }

    /// Aborts the open transaction. librdkafka waits until the delivery reports of the records are polled, which is the
    /// caller's part, and continues the abort when it is called again.
    fn abort_within(&self, patience: Duration) -> KafkaResult<()> {
        let until = Instant::now() + patience;
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

    /// Ends the failed transaction, and says what it failed of: a fence outweighs what followed from it.
    fn abort(&self, first: LogError) -> LogError {
        let aborted = self.abort_within(self.timeout);
        // A denial that is reported only now replaces `first`, which it caused.
        let reported = self.failures.first().take();
        let first = match reported {
            Some(denied @ LogError::Denied { .. }) => denied,
            _ => first,
        };
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
        for topic in self.topics.keys() {
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

/// Polls the producer while its owner has nothing to send, or waits for Kafka: librdkafka requests a new token only in
/// a poll. A delivery report that this thread polls reaches the owner too, through [`Failures`].
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
            let _ = self.abort_within(ABORT_PATIENCE);
        }
    }
}
