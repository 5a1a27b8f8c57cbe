//! What can go wrong at the log, each in one sentence that says what to do.

use std::{path::PathBuf, time::Duration};

/// Why the log could not do it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No broker answered.
    #[error(
        "Kafka at {brokers} does not answer ({detail}); check the address and that the broker runs"
    )]
    Unreachable {
        /// The brokers as configured.
        brokers: String,
        /// What the client library says.
        detail: String,
    },
    /// A broker answered, and none of those that it names is reached.
    #[error(
        "Kafka at {brokers} answers, but the brokers that it names do not ({detail}); check their advertised.listeners, and that this host knows those names"
    )]
    Advertised {
        /// The brokers as configured.
        brokers: String,
        /// Which brokers, and why.
        detail: String,
    },
    /// A broker and this client do not agree on TLS or SASL.
    #[error("Kafka at {broker}: {detail}")]
    Security {
        /// The broker, or the brokers as configured.
        broker: String,
        /// What is wrong, and the property to set.
        detail: String,
    },
    /// There is no such topic.
    #[error(
        "topic {topic} does not exist; create it with `emostream topics create --partitions N` and the same --kafka and --topic-prefix"
    )]
    UnknownTopic {
        /// The topic's name.
        topic: String,
    },
    /// There is no such partition.
    #[error("topic {topic} has no partition {partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The partition asked for.
        partition: u32,
    },
    /// The offset lies outside what the log keeps.
    #[error("offset {offset} of {topic}/{partition} is no longer kept (the log starts at {start})")]
    Expired {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: u32,
        /// The offset asked for.
        offset: u64,
        /// The first offset kept.
        start: u64,
    },
    /// The record is larger than the topic takes.
    #[error(
        "a record of {bytes} bytes is larger than topic {topic} takes ({most}); send fewer reactions at once, or raise the topic's max.message.bytes"
    )]
    TooLarge {
        /// The topic's name.
        topic: String,
        /// The record's bytes.
        bytes: u64,
        /// The most that the topic takes.
        most: u64,
    },
    /// The topic does not accept the record, however often it is sent.
    #[error("topic {topic} does not accept a record of {bytes} bytes: {reason}")]
    NotAccepted {
        /// The topic's name.
        topic: String,
        /// The bytes of the record's key and value.
        bytes: usize,
        /// What is wrong, and the setting to change.
        reason: String,
    },
    /// A transaction may not last as long as the client asks for.
    #[error(
        "the brokers allow no transaction of {timeout:?} (--commit-timeout); shorten it, or raise their transaction.max.timeout.ms"
    )]
    TransactionTimeout {
        /// The timeout that the client asks for.
        timeout: Duration,
    },
    /// The client's principal lacks a permission.
    #[error(
        "Kafka denies this client {operation} on {resource}; give its principal that permission (`emostream topics check` prints the commands)"
    )]
    Denied {
        /// Kafka's name of the operation: `Describe`, `Read`, `Write`, `Create` or `DescribeConfigs`.
        operation: &'static str,
        /// The topic or transactional id, with its kind.
        resource: String,
        /// Whether the brokers repeated the answer for [`KafkaOptions::denial_patience`], so that it is not an
        /// ACL that has not reached them yet.
        ///
        /// [`KafkaOptions::denial_patience`]: crate::kafka::KafkaOptions::denial_patience
        repeated: bool,
    },
    /// The appender's queue is full.
    #[error("the log's queue is full; it takes more when the log has caught up")]
    Full,
    /// The log did not acknowledge in time.
    #[error("the log did not acknowledge in time: {detail}")]
    TimedOut {
        /// What the client library says.
        detail: String,
    },
    /// The record is dated further in the future than the topic allows.
    #[error(
        "the record's time is {ahead_ms} ms in the future, more than topic {topic} takes; check this host's clock"
    )]
    Ahead {
        /// The topic's name.
        topic: String,
        /// How far ahead.
        ahead_ms: u64,
    },
    /// A newer transactor of the same id exists.
    #[error("fenced: a newer run holds the transactions of {id}")]
    Fenced {
        /// The transactor's id.
        id: String,
    },
    /// The transaction was aborted, or its fate is unknown.
    #[error("the transaction failed: {detail}")]
    Aborted {
        /// What the client library says.
        detail: String,
    },
    /// Another process holds the directory.
    #[error("{} is in use by another emostream; stop that one, or give this one its own --data directory", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory's files are not readable as a log.
    #[error("the log in {} is damaged ({detail}); move the directory away to start afresh, or restore it from a backup", dir.display())]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// What the store says.
        detail: String,
    },
    /// The disk refused.
    #[error("the log cannot use {}: {detail}", dir.display())]
    Disk {
        /// The data directory.
        dir: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A client property is wrong.
    #[error("{origin} {property}: {detail}")]
    Property {
        /// What sets it: `-X`, or `--kafka-config` with the file.
        origin: String,
        /// The librdkafka property.
        property: String,
        /// What librdkafka says of it.
        detail: String,
    },
    /// Anything else the log refused.
    #[error("the log refused: {0}")]
    Refused(String),
}
