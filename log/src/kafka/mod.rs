//! The topic log on a team's own Kafka, through librdkafka.
//!
//! ```text
//! Appender   ── one idempotent producer, polled by a thread of its own ──▶ ┐
//! Transactor ── one transactional producer, polled while it commits ─────▶ ├ Kafka
//! Reader     ◀─ one consumer, one queue a partition, polled by its owner ─ ┘
//! ```
//!
//! Invariants: readers read committed records only, and an offset that is gone is an error, never a
//! silent jump. What librdkafka has to say goes to `tracing`, never to standard error.

mod admin;
mod appender;
mod builtin;
mod config;
mod context;
mod denials;
mod failure;
mod group_offsets;
mod oauth;
mod options;
mod protected;
mod reader;
mod tls;
mod transactor;
mod trouble;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use self::{
    appender::KafkaAppender, config::Config, context::Events, failure::Operation,
    group_offsets::KafkaGroupOffsets, oauth::Tokens, reader::KafkaReader,
    transactor::KafkaTransactor, trouble::NO_TOKEN,
};
pub use self::{
    builtin::security_features,
    options::{Fetching, KafkaOptions, PropertiesFile, Redacted, is_secret},
};
use crate::{
    Appender, EndOffsets, GroupOffsets, Log, LogError, Reader, TopicDescription, TopicSpec,
    Transactor, Wake,
};

/// How long a broker may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long to wait until a new leader is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How often librdkafka's events are served.
const EVENTS_EVERY: Duration = Duration::from_millis(100);
/// So many of them at once: after a broker's death come some dozens a second.
const EVENTS_AT_ONCE: usize = 20;

/// How a topic lies on the brokers; see [`TopicDescription`].
struct Layout {
    partitions: u32,
    replication: u32,
    brokers: u32,
    /// A partition that nobody can read or write now.
    leaderless: Option<u32>,
}

/// The log on a Kafka cluster.
pub struct KafkaLog {
    config: Config,
    /// Sees what is committed.
    client: Arc<BaseConsumer<Events>>,
    /// Sees open transactions as well: librdkafka answers with the end offset of a client's own isolation
    /// level.
    uncommitted: Arc<BaseConsumer<Events>>,
    /// Identifies the Kafka cluster.
    cluster_id: String,
    closed: Arc<AtomicBool>,
    events: Option<JoinHandle<()>>,
}

impl KafkaLog {
    /// Checks the properties, then that a broker answers.
    ///
    /// [`LogError::Property`] if one is refused, [`LogError::Unreachable`] if no broker answers
    /// within eight seconds.
    pub fn connect(options: KafkaOptions) -> Result<Self, LogError> {
        let mut config = Config::new(&options);
        config.check()?;
        config.request_token()?;
        let context = config.events().connecting();
        let client: BaseConsumer<Events> = config.create(&config.client(), context.clone())?;
        // Its errors are those of the other client, which reports them.
        let uncommitted: BaseConsumer<Events> =
            config.create(&config.uncommitted(), config.events().connecting())?;
        let (client, uncommitted) = (Arc::new(client), Arc::new(uncommitted));
        let closed = Arc::new(AtomicBool::new(false));
        let events = serve_events([client.clone(), uncommitted.clone()], closed.clone())?;
        let mut log = Self {
            config,
            client,
            uncommitted,
            cluster_id: String::new(),
            closed,
            events: Some(events),
        };
        // Only while events are served: why no broker answers is one of them.
        log.cluster_id = match log.client.client().fetch_cluster_id(PATIENCE) {
            Some(cluster_id) => cluster_id,
            None => {
                let report = context.last();
                let report = report.unwrap_or_else(|| format!("nothing came within {PATIENCE:?}"));
                return Err(match tls::diagnose(&log.config, &report) {
                    Some(error) => error,
                    None => log.away(report),
                });
            }
        };
        admin::check_advertised(&log.client, log.config.brokers())?;
        context.connected();
        Ok(log)
    }

    /// An error of a question to the cluster, about `topic` and perhaps a partition.
    fn failure(&self, error: &KafkaError, topic: &str, partition: u32) -> LogError {
        failure::of(error, Operation::Describe, topic, partition)
            .unwrap_or_else(|| self.away(error.to_string()))
    }

    /// The brokers do not answer: why, if librdkafka reported it.
    fn away(&self, detail: String) -> LogError {
        let brokers = self.config.brokers();
        // librdkafka reports a lack of tokens once only.
        let report = match self.config.tokens().map(Tokens::current) {
            Some(Err(why)) => Some(format!("{NO_TOKEN}{why}")),
            _ => self.client.context().last_about_security(),
        };
        let security = report.and_then(|report| failure::security(brokers, &report));
        security.unwrap_or_else(|| LogError::Unreachable {
            brokers: brokers.to_owned(),
            detail,
        })
    }

    /// How the topic lies on the brokers.
    fn layout(&self, topic: &str, patience: Duration) -> Result<Layout, LogError> {
        let unknown = || LogError::UnknownTopic {
            topic: topic.to_owned(),
        };
        let metadata = self
            .client
            .fetch_metadata(Some(topic), patience)
            .map_err(|error| self.failure(&error, topic, 0))?;
        self.client.context().answered();
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .ok_or_else(unknown)?;
        match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::NoError) => {}
            // One of its brokers is away; the topic and its partitions are known all the same.
            Some(RDKafkaErrorCode::LeaderNotAvailable) if !found.partitions().is_empty() => {}
            Some(code) => return Err(self.failure(&KafkaError::MetadataFetch(code), topic, 0)),
        }
        let copies = found.partitions().iter().map(|p| p.replicas().len());
        Ok(Layout {
            partitions: match u32::try_from(found.partitions().len()) {
                Ok(0) | Err(_) => return Err(unknown()),
                Ok(partitions) => partitions,
            },
            replication: copies.min().unwrap_or(0) as u32,
            brokers: metadata.brokers().len() as u32,
            leaderless: found
                .partitions()
                .iter()
                .find(|partition| partition.leader() < 0)
                .map(|partition| partition.id() as u32),
        })
    }

    /// Asks the leader of a partition that exists. Just after a topic was made, or a broker has died,
    /// there is none that answers, or none that is known here, for some moments.
    fn ask_leader<T>(
        &self,
        topic: &str,
        partition: u32,
        question: impl Fn() -> KafkaResult<T>,
    ) -> Result<T, LogError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match question() {
                Err(error) if failure::seeks_leader(&error) && Instant::now() < deadline => {
                    thread::sleep(ASK_AGAIN);
                }
                answer => return answer.map_err(|error| self.failure(&error, topic, partition)),
            }
        }
    }

    fn require(&self, topic: &str, partition: u32) -> Result<(), LogError> {
        if partition < self.partitions(topic)? {
            return Ok(());
        }
        Err(LogError::UnknownPartition {
            topic: topic.to_owned(),
            partition,
        })
    }
}

/// Serves what librdkafka wants to tell: its log lines and errors would pile up otherwise.
fn serve_events(
    clients: [Arc<BaseConsumer<Events>>; 2],
    closed: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, LogError> {
    thread::Builder::new()
        .name("kafka-events".to_owned())
        .spawn(move || {
            while !closed.load(Ordering::Acquire) {
                // Errors have reached the context by then; messages there are none. To wait in `poll`
                // would turn in circles for the last millisecond of each wait.
                for client in &clients {
                    for _ in 0..EVENTS_AT_ONCE {
                        drop(client.poll(Duration::ZERO));
                    }
                }
                thread::park_timeout(EVENTS_EVERY);
            }
        })
        .map_err(|error| LogError::Refused(format!("a thread cannot start: {error}")))
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        if let Some(events) = self.events.take() {
            events.thread().unpark();
            // A panic there has been reported already.
            let _ = events.join();
        }
    }
}

impl Log for KafkaLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        let denials = self.config.denials();
        denials.insist(|| admin::create_topic(&self.config, spec))?;
        admin::wait_until_known(|| self.partitions(&spec.name))
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let denials = self.config.denials();
        Ok(denials.insist(|| self.layout(topic, PATIENCE))?.partitions)
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        let denials = self.config.denials();
        let layout = denials.insist(|| self.layout(topic, PATIENCE))?;
        let settings = denials.insist(|| admin::settings_of(&self.config, topic))?;
        Ok(TopicDescription {
            partitions: layout.partitions,
            replication: layout.replication,
            brokers: layout.brokers,
            compacted: settings.compacted,
            deleted: settings.deleted,
            timestamps: settings.timestamps,
            max_record_bytes: settings.max_record_bytes,
            min_in_sync: settings.min_in_sync,
            unclean_election: settings.unclean_election,
        })
    }

    fn brokers(&self) -> Option<&str> {
        Some(self.config.brokers())
    }

    fn answers(&self, topic: &str, patience: Duration) -> Result<(), LogError> {
        if let Some(denied) = self.denied() {
            return Err(denied);
        }
        match self.layout(topic, patience)?.leaderless {
            None => Ok(()),
            Some(partition) => Err(LogError::Unreachable {
                brokers: self.config.brokers().to_owned(),
                detail: format!("no broker leads {topic}/{partition}"),
            }),
        }
    }

    fn denied(&self) -> Option<LogError> {
        self.config.denials().current()
    }

    fn offsets(&self, topic: &str, partition: u32) -> Result<Range<u64>, LogError> {
        self.require(topic, partition)?;
        // Read committed: the end is where the first open transaction begins.
        let (start, end) = self.ask_leader(topic, partition, || {
            let partition = config::signed(partition);
            self.client.fetch_watermarks(topic, partition, PATIENCE)
        })?;
        Ok(config::unsigned(start)..config::unsigned(end))
    }

    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        patience: Duration,
    ) -> Result<EndOffsets, LogError> {
        let end_of = |client: &BaseConsumer<Events>| {
            let watermarks = client.fetch_watermarks(topic, config::signed(partition), patience);
            watermarks
                .map(|(_, end)| config::unsigned(end))
                .map_err(|error| self.failure(&error, topic, partition))
        };
        let end = end_of(&self.uncommitted)?;
        // It was requested later and may have moved beyond.
        let stable = end_of(&self.client)?.min(end);
        Ok(EndOffsets { stable, end })
    }

    fn cluster_id(&self) -> Option<String> {
        Some(self.cluster_id.clone())
    }

    fn offset_at(&self, topic: &str, partition: u32, time_ms: u64) -> Result<u64, LogError> {
        self.require(topic, partition)?;
        let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
        let found = self.ask_leader(topic, partition, || {
            let mut wanted = TopicPartitionList::with_capacity(1);
            wanted.add_partition_offset(topic, config::signed(partition), time)?;
            let found = self.client.offsets_for_times(wanted, PATIENCE)?;
            for element in found.elements() {
                element.error()?;
                if let Offset::Offset(offset) = element.offset() {
                    return Ok(Some(config::unsigned(offset)));
                }
            }
            Ok(None)
        })?;
        match found {
            Some(offset) => Ok(offset),
            None => Ok(self.offsets(topic, partition)?.end),
        }
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        let partitions = self.partitions(topic)?;
        if let Some((partition, _)) = from.iter().find(|(partition, _)| *partition >= partitions) {
            return Err(LogError::UnknownPartition {
                topic: topic.to_owned(),
                partition: *partition,
            });
        }
        Ok(Box::new(KafkaReader::open(
            &self.config,
            topic,
            from,
            wake,
        )?))
    }

    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        let settings = self.config.producer(timeout, None);
        Ok(Box::new(KafkaAppender::open(
            &self.config,
            settings,
            timeout,
        )?))
    }

    fn bounded_appender(
        &self,
        timeout: Duration,
        bytes: u64,
    ) -> Result<Box<dyn Appender>, LogError> {
        let settings = self.config.producer(timeout, Some(bytes));
        let opened = KafkaAppender::open(&self.config, settings, timeout)?;
        Ok(Box::new(opened))
    }

    fn group_offsets(
        &self,
        group: &str,
        topic: &str,
    ) -> Result<Option<Box<dyn GroupOffsets>>, LogError> {
        let opened = KafkaGroupOffsets::open(&self.config, group, topic)?;
        Ok(Some(Box::new(opened)))
    }

    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        let denials = self.config.denials();
        let opened = denials.insist(|| KafkaTransactor::open(&self.config, id, timeout))?;
        Ok(Box::new(opened))
    }
}
