//! The topic log on a Kafka cluster, through librdkafka.
//!
//! ```text
//! Appender   ── one idempotent producer, polled by a thread of its own ──▶ ┐
//! Transactor ── one transactional producer, polled while it commits ─────▶ ├ Kafka
//! Reader     ◀─ one consumer, one queue per partition, polled by its owner ┘
//! ```
//!
//! Invariants: readers read only committed records. If the offset of a reader is not in the log any more, the reader
//! returns an error, and never continues silently at another offset. librdkafka's log lines are passed to `tracing`,
//! never written to standard error.

mod admin;
mod appender;
mod builtin;
mod config;
mod context;
mod denials;
mod failure;
mod group_offsets;
mod list_offsets;
mod oauth;
mod options;
mod protected;
mod reader;
mod tls;
mod transactor;
mod trouble;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use self::{
    appender::KafkaAppender,
    config::Config,
    context::Events,
    failure::Operation,
    group_offsets::KafkaGroupOffsets,
    list_offsets::{at_edge, at_time, is_transient},
    oauth::Tokens,
    reader::KafkaReader,
    transactor::KafkaTransactor,
    trouble::NO_TOKEN,
};
pub use self::{
    builtin::security_features,
    options::{Fetching, KafkaOptions, PropertiesFile, Redacted, is_secret},
};
use crate::{
    Appender, EndOffsets, GroupOffsets, Log, LogError, Reader, TopicDescription, TopicSpec,
    Transactor, Wake,
};

/// Timeout of requests to a broker, after which it counts as unreachable.
const BROKER_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause before a request is repeated because the leader of a partition has changed or is not known.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Interval at which librdkafka's events are polled.
const EVENTS_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of events that are polled per interval: after a broker has failed, there are some dozens per second.
const MAX_EVENTS_PER_INTERVAL: usize = 20;

/// The partitions and the brokers of a topic; see [`TopicDescription`].
#[derive(Clone)]
struct Layout {
    /// The broker that leads each partition, in the order of the partitions; negative if there is none.
    leaders: Vec<i32>,
    replication: u32,
    brokers: u32,
}

impl Layout {
    fn partitions(&self) -> u32 {
        self.leaders.len() as u32
    }

    /// Returns the partitions of each leader.
    fn by_leader(&self) -> BTreeMap<i32, Vec<u32>> {
        let mut groups: BTreeMap<i32, Vec<u32>> = BTreeMap::new();
        for (partition, leader) in (0..).zip(&self.leaders) {
            if *leader >= 0 {
                groups.entry(*leader).or_default().push(partition);
            }
        }
        groups
    }
}

/// A log on a Kafka cluster.
pub struct KafkaLog {
    config: Config,
    /// Client whose end offsets are those of committed records.
    client: Arc<BaseConsumer<Events>>,
    /// Client whose end offsets include open transactions: librdkafka returns the end offset of a client's own
    /// isolation level.
    uncommitted: Arc<BaseConsumer<Events>>,
    /// The last known layout of each topic whose high watermarks were requested.
    layouts: Mutex<HashMap<String, Layout>>,
    /// Id of the Kafka cluster.
    cluster_id: String,
    closed: Arc<AtomicBool>,
    events: Option<JoinHandle<()>>,
}

impl KafkaLog {
    /// Checks the properties, then connects to a broker.
    ///
    /// Returns [`LogError::Property`] if a property is refused, and [`LogError::Unreachable`] if no broker responds
    /// within eight seconds.
    pub fn connect(options: KafkaOptions) -> Result<Self, LogError> {
        let mut config = Config::new(&options);
        config.check()?;
        config.request_token()?;
        let context = config.events().connecting();
        let client: BaseConsumer<Events> = config.create(&config.client(), context.clone())?;
        // The second client stays in the state `connecting`, in which errors are not logged, since the first client
        // reports the same errors.
        let uncommitted: BaseConsumer<Events> =
            config.create(&config.uncommitted(), config.events().connecting())?;
        let (client, uncommitted) = (Arc::new(client), Arc::new(uncommitted));
        let closed = Arc::new(AtomicBool::new(false));
        let events = serve_events([client.clone(), uncommitted.clone()], closed.clone())?;
        let mut log = Self {
            config,
            client,
            uncommitted,
            layouts: Mutex::default(),
            cluster_id: String::new(),
            closed,
            events: Some(events),
        };
        // This request is sent while the events thread runs, because one of the events contains the reason if no broker
        // responds.
        log.cluster_id = match log.client.client().fetch_cluster_id(BROKER_TIMEOUT) {
            Some(cluster_id) => cluster_id,
            None => {
                let report = context.last();
                let report =
                    report.unwrap_or_else(|| format!("no response within {BROKER_TIMEOUT:?}"));
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

    /// Converts the error of a request about a topic or one of its partitions.
    fn failure(&self, error: &KafkaError, topic: &str, partition: u32) -> LogError {
        failure::of(error, Operation::Describe, topic, partition)
            .unwrap_or_else(|| self.away(error.to_string()))
    }

    /// Returns the error for the case that no broker responds, with the reason if librdkafka has reported one.
    fn away(&self, detail: String) -> LogError {
        let brokers = self.config.brokers();
        // librdkafka reports a missing token only once, so the current token is checked here.
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

    /// Requests the layout of the topic. librdkafka also stores the leaders, for later requests of `client`.
    fn layout(
        &self,
        client: &BaseConsumer<Events>,
        topic: &str,
        timeout: Duration,
    ) -> Result<Layout, LogError> {
        let unknown = || LogError::UnknownTopic {
            topic: topic.to_owned(),
        };
        let metadata = client
            .fetch_metadata(Some(topic), timeout)
            .map_err(|error| self.failure(&error, topic, 0))?;
        client.context().answered();
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .ok_or_else(unknown)?;
        match found.error().map(RDKafkaErrorCode::from) {
            None | Some(RDKafkaErrorCode::NoError) => {}
            // Only the leader of a partition is not available. This is not an error here, since the topic and its
            // partitions are known.
            Some(RDKafkaErrorCode::LeaderNotAvailable) if !found.partitions().is_empty() => {}
            Some(code) => return Err(self.failure(&KafkaError::MetadataFetch(code), topic, 0)),
        }
        if found.partitions().is_empty() {
            return Err(unknown());
        }
        let copies = found.partitions().iter().map(|p| p.replicas().len());
        Ok(Layout {
            leaders: found.partitions().iter().map(|p| p.leader()).collect(),
            replication: copies.min().unwrap_or(0) as u32,
            brokers: metadata.brokers().len() as u32,
        })
    }

    /// Returns the layout of the topic, or the last known layout if no broker responds in time. librdkafka may send the
    /// request to a broker that does not respond, while the leaders of other partitions do respond.
    fn last_known_layout(&self, topic: &str, timeout: Duration) -> Result<Layout, LogError> {
        let layout = self.layout(&self.uncommitted, topic, timeout);
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        match layout {
            Ok(layout) => {
                layouts.insert(topic.to_owned(), layout.clone());
                Ok(layout)
            }
            Err(error @ (LogError::Unreachable { .. } | LogError::TimedOut { .. })) => {
                layouts.get(topic).cloned().ok_or(error)
            }
            Err(error) => {
                layouts.remove(topic);
                Err(error)
            }
        }
    }

    /// Sends a request to the leaders of all partitions, and repeats it after a transient error. For some moments after
    /// a topic was created, or after a broker has failed, a partition may have no leader, or the client may not know
    /// the leader.
    #[allow(clippy::disallowed_methods, reason = "waits for the brokers")]
    fn request_from_leaders<T>(
        &self,
        topic: &str,
        request: impl Fn(Range<u32>) -> KafkaResult<T>,
    ) -> Result<T, LogError> {
        let deadline = Instant::now() + BROKER_TIMEOUT;
        loop {
            // The partitions are requested before each attempt, which updates the leaders: librdkafka does not look for
            // the leader of a partition that had none in its latest metadata.
            let partitions = self.partitions(topic)?;
            match request(0..partitions) {
                Err(error) if is_transient(&error) && Instant::now() < deadline => {
                    thread::sleep(RETRY_INTERVAL);
                }
                answer => return answer.map_err(|error| self.no_offsets(&error, topic)),
            }
        }
    }

    fn open_reader(
        &self,
        config: &Config,
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
        Ok(Box::new(KafkaReader::open(config, topic, from, wake)?))
    }

    /// Converts the error of a request to the leaders of existing partitions. A transient error means that a broker
    /// does not respond.
    fn no_offsets(&self, error: &KafkaError, topic: &str) -> LogError {
        match is_transient(error) {
            true => self.away(format!("{topic}: {error}")),
            false => self.failure(error, topic, 0),
        }
    }
}

/// Starts a thread that polls librdkafka's events. Otherwise the log lines and errors in them would accumulate.
fn serve_events(
    clients: [Arc<BaseConsumer<Events>>; 2],
    closed: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, LogError> {
    thread::Builder::new()
        .name("kafka-events".to_owned())
        .spawn(move || {
            while !closed.load(Ordering::Acquire) {
                // `poll` passes errors to the context. It returns nothing that is needed, since these clients read no
                // messages. The timeout is zero, since `poll` busy-waits in the last millisecond of a timeout.
                for client in &clients {
                    for _ in 0..MAX_EVENTS_PER_INTERVAL {
                        drop(client.poll(Duration::ZERO));
                    }
                }
                thread::park_timeout(EVENTS_INTERVAL);
            }
        })
        .map_err(|error| LogError::Refused(format!("a thread cannot start: {error}")))
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        if let Some(events) = self.events.take() {
            events.thread().unpark();
            // If the thread panicked, the panic was reported when it occurred.
            let _ = events.join();
        }
    }
}

impl Log for KafkaLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        let denials = self.config.denials();
        denials.retry_denied(|| admin::create_topic(&self.config, spec))?;
        admin::wait_until_known(|| self.partitions(&spec.name))
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let denials = self.config.denials();
        let layout = denials.retry_denied(|| self.layout(&self.client, topic, BROKER_TIMEOUT))?;
        Ok(layout.partitions())
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        let denials = self.config.denials();
        let layout = denials.retry_denied(|| self.layout(&self.client, topic, BROKER_TIMEOUT))?;
        let settings = denials.retry_denied(|| admin::settings_of(&self.config, topic))?;
        Ok(TopicDescription {
            partitions: layout.partitions(),
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

    fn answers(&self, topic: &str, timeout: Duration) -> Result<(), LogError> {
        if let Some(denied) = self.denied() {
            return Err(denied);
        }
        let layout = self.layout(&self.client, topic, timeout)?;
        match layout.leaders.iter().position(|leader| *leader < 0) {
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

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        self.request_from_leaders(topic, |partitions| {
            let edges = |edge| {
                at_edge(
                    &self.client,
                    topic,
                    partitions.clone(),
                    edge,
                    BROKER_TIMEOUT,
                )
            };
            let starts = edges(Offset::Beginning)?;
            // The client reads committed records, so the end is the start of the first open transaction, if there is
            // one.
            let ends = edges(Offset::End)?;
            Ok(starts
                .into_iter()
                .zip(ends)
                .map(|(start, end)| start..end)
                .collect())
        })
    }

    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        timeout: Duration,
    ) -> Result<EndOffsets, LogError> {
        let end_of = |client: &BaseConsumer<Events>| {
            let watermarks = client.fetch_watermarks(topic, config::signed(partition), timeout);
            watermarks
                .map(|(_, end)| config::unsigned(end))
                .map_err(|error| self.failure(&error, topic, partition))
        };
        let end = end_of(&self.uncommitted)?;
        // The stable offset was requested after `end`, so it may be greater.
        let stable = end_of(&self.client)?.min(end);
        Ok(EndOffsets { stable, end })
    }

    fn high_watermarks(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> Result<Vec<Result<u64, LogError>>, LogError> {
        let layout = self.last_known_layout(topic, timeout)?;
        let groups = layout.by_leader();
        let leaderless = self.away(format!("no broker leads a partition of {topic}"));
        let mut ends = vec![Err(leaderless); layout.leaders.len()];
        let request = |partitions: &[u32]| {
            let partitions = partitions.iter().copied();
            at_edge(&self.uncommitted, topic, partitions, Offset::End, timeout)
                .map_err(|error| self.no_offsets(&error, topic))
        };
        // Each leader gets its own call on its own thread: a call for several leaders fails if one of them does not
        // respond.
        thread::scope(|scope| {
            let start = |partitions| {
                let thread = thread::Builder::new().name("kafka-ends".to_owned());
                let requesting = thread.spawn_scoped(scope, move || request(partitions));
                Some((partitions, requesting.ok()?))
            };
            let requesting: Vec<_> = groups.values().filter_map(|it| start(it)).collect();
            for (partitions, requesting) in requesting {
                let Ok(answer) = requesting.join() else {
                    continue;
                };
                for (n, partition) in partitions.iter().enumerate() {
                    ends[*partition as usize] = answer.clone().map(|ends| ends[n]);
                }
            }
        });
        Ok(ends)
    }

    fn cluster_id(&self) -> Option<String> {
        Some(self.cluster_id.clone())
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
        self.request_from_leaders(topic, |partitions| {
            let found = at_time(
                &self.client,
                topic,
                partitions.clone(),
                time,
                BROKER_TIMEOUT,
            )?;
            let ends = at_edge(&self.client, topic, partitions, Offset::End, BROKER_TIMEOUT)?;
            Ok(found
                .into_iter()
                .zip(ends)
                .map(|(found, end)| found.unwrap_or(end))
                .collect())
        })
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.open_reader(&self.config, topic, from, wake)
    }

    fn scanner(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.open_reader(&self.config.for_scans(), topic, from, wake)
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
        let opened = denials.retry_denied(|| KafkaTransactor::open(&self.config, id, timeout))?;
        Ok(Box::new(opened))
    }
}
