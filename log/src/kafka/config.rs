//! librdkafka's settings: EmoStream's own, each with its reason, and over them the user's, but for those that
//! are [`protected`].

use std::time::Duration;

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
};

use super::{Fetching, KafkaOptions, protected};
use crate::LogError;

/// A client whose last broker is gone is replaced, not more often than this.
pub(super) const REPLACE_EVERY: Duration = Duration::from_secs(10);

/// A request that a broker has not answered by then is sent anew.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// The most bytes that librdkafka sends together by default.
const LARGEST_BATCH: u64 = 1_000_000;

/// How often a client that is always served says whether it has a broker; another would only gather
/// what it says.
const STATISTICS_MS: &str = "2000";

/// Makes the settings of every kind of client.
#[derive(Debug, Clone)]
pub(super) struct Config {
    options: KafkaOptions,
}

impl Config {
    pub(super) fn new(options: KafkaOptions) -> Self {
        Self { options }
    }

    pub(super) fn brokers(&self) -> &str {
        &self.options.brokers
    }

    /// Finds a property that is protected or that librdkafka refuses, before any client is made.
    pub(super) fn check(&self) -> Result<(), LogError> {
        for (property, value) in &self.options.properties {
            if let Some(reason) = protected::reason(property, value) {
                return Err(LogError::Property {
                    property: property.clone(),
                    detail: format!("cannot be set to {value}: {reason}; leave it out"),
                });
            }
        }
        let native = self.client().create_native_config();
        native.map(drop).map_err(|error| self.refusal(&error))
    }

    /// A client that asks and administers, but neither reads nor writes.
    pub(super) fn client(&self) -> ClientConfig {
        self.settle(self.common())
    }

    /// As [`Config::client`], but its end offsets include open transactions.
    pub(super) fn uncommitted(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        config
    }

    /// A client that reads committed records from offsets of our own.
    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            // Without a group librdkafka has no assignment. Nothing joins it and nothing is committed.
            .set("group.id", "emostream-readers")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // A reader must hear that its offset is gone, not be moved.
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", STATISTICS_MS)
            // A flipped bit would be counted; the processor checks CRC32C for next to nothing.
            .set("check.crcs", "true")
            // What lies in the queue is memory: 64 MB of small records are 500 MB of messages, and out of
            // every cache. 4 MB a partition took a backlog from 800 MB to 140, and a fifth off its CPU.
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "4096")
            // A full queue waits so long before it asks again; the default is a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "100");
        let (bytes, wait_ms) = match self.options.fetching {
            Fetching::AtOnce => ("1", "500"),
            Fetching::InBulk => ("65536", "15"),
        };
        config
            .set("fetch.min.bytes", bytes)
            .set("fetch.wait.max.ms", wait_ms);
        self.settle(config)
    }

    /// A producer whose records are acknowledged, or refused for good, within `timeout`, and which sends at
    /// most so many bytes together.
    pub(super) fn producer(&self, timeout: Duration, bytes: Option<u64>) -> ClientConfig {
        let mut config = self.writing(timeout);
        if let Some(bytes) = bytes {
            // A broker refuses all records of a batch that is larger than the topic takes.
            config.set("batch.size", bytes.clamp(1, LARGEST_BATCH).to_string());
        }
        config
            .set("statistics.interval.ms", STATISTICS_MS)
            // Where a record may take as long as it likes, a broker that does not answer may not: then
            // it is asked again, on another connection.
            .set("request.timeout.ms", millis(timeout.min(REQUEST_TIMEOUT)));
        self.settle(config)
    }

    /// A producer of transactions that Kafka aborts after `timeout`.
    pub(super) fn transactional(&self, id: &str, timeout: Duration) -> ClientConfig {
        let mut config = self.writing(timeout);
        config
            .set("transactional.id", id)
            // Must not be shorter than message.timeout.ms.
            .set("transaction.timeout.ms", millis(timeout));
        self.settle(config)
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.options.brokers)
            .set("client.id", "emostream")
            // A broker that comes back is noticed within a second; the default lets ten pass.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // Our own metrics are at /metrics; the cluster is not asked to collect them.
            .set("enable.metrics.push", "false");
        config
    }

    fn writing(&self, timeout: Duration) -> ClientConfig {
        let mut config = self.common();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "lz4")
            .set("linger.ms", "2")
            .set("message.timeout.ms", millis(timeout))
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            // As Kafka's Java client: a key has one partition, whoever writes it.
            .set("partitioner", "murmur2_random")
            // A partition that was added is written to soon; the default lets five minutes pass.
            .set("topic.metadata.refresh.interval.ms", "30000")
            // Topics are made and waited for before they are written to; the default of 30 s is longer
            // than any record lives.
            .set("topic.metadata.propagation.max.ms", "2000");
        config
    }

    fn settle(&self, mut config: ClientConfig) -> ClientConfig {
        for (key, value) in &self.options.properties {
            config.set(key, value);
        }
        let verbose = tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG);
        config.set_log_level(if verbose {
            RDKafkaLogLevel::Debug
        } else {
            RDKafkaLogLevel::Critical
        });
        config
    }

    /// Makes a client; librdkafka may find only then that two settings do not go together.
    pub(super) fn create<Context, Client>(
        &self,
        config: &ClientConfig,
        context: Context,
    ) -> Result<Client, LogError>
    where
        Context: ClientContext,
        Client: FromClientConfigAndContext<Context>,
    {
        config
            .create_with_context(context)
            .map_err(|error| self.refusal(&error))
    }

    /// Why librdkafka makes no such client: the user's property, if one is at the bottom of it.
    fn refusal(&self, error: &KafkaError) -> LogError {
        let (blamed, detail) = match error {
            KafkaError::ClientConfig(_, detail, key, _) => (
                self.options
                    .properties
                    .iter()
                    .find(|(known, _)| known == key),
                detail.clone(),
            ),
            other => {
                let detail = match other {
                    KafkaError::ClientCreation(detail) => detail.clone(),
                    other => other.to_string(),
                };
                (
                    self.options
                        .properties
                        .iter()
                        .find(|(key, _)| detail.contains(key.as_str())),
                    detail,
                )
            }
        };
        match blamed {
            Some((property, _)) => LogError::Property {
                property: property.clone(),
                detail,
            },
            None => LogError::Refused(detail),
        }
    }
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

/// A partition as librdkafka counts it; there are never more than it can.
pub(super) fn signed(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// An offset as we count it; librdkafka's negative ones have been told apart before.
pub(super) fn unsigned(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}
