//! The errors of a log. Each error message is one sentence with the reason and what to do.

use std::{path::PathBuf, time::Duration};

/// The reason why an operation of the log failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No broker responds.
    #[error(
        "Kafka at {brokers} does not respond ({detail}); check the address and that the broker runs"
    )]
    Unreachable {
        /// The brokers as configured.
        brokers: String,
        /// The report of the client library.
        detail: String,
    },
    /// A broker responds, but none of the brokers that it advertises is reachable.
    #[error(
        "Kafka at {brokers} responds, but the brokers that it advertises do not ({detail}); check their advertised.listeners, and that this host can resolve these names"
    )]
    Advertised {
        /// The brokers as configured.
        brokers: String,
        /// The advertised brokers, and why they cannot be reached.
        detail: String,
    },
    /// A broker and this client do not agree on TLS or SASL.
    #[error("Kafka at {broker}: {detail}")]
    Security {
        /// The broker with the problem, or all brokers as configured.
        broker: String,
        /// The problem, and the property to set.
        detail: String,
    },
    /// The topic does not exist.
    #[error(
        "topic {topic} does not exist; create it with `emostream topics create --partitions N` and the same --kafka and --topic-prefix"
    )]
    UnknownTopic {
        /// The topic's name.
        topic: String,
    },
    /// The partition does not exist.
    #[error("topic {topic} has no partition {partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The requested partition.
        partition: u32,
    },
    /// The offset is outside the range that the log stores.
    #[error(
        "offset {offset} of {topic}/{partition} is no longer in the log (it starts at {start})"
    )]
    Expired {
        /// The topic's name.
        topic: String,
        /// The partition.
        partition: u32,
        /// The requested offset.
        offset: u64,
        /// The first stored offset.
        start: u64,
    },
    /// The record is larger than the topic accepts.
    #[error(
        "a record of {bytes} bytes is larger than topic {topic} accepts ({most}); send fewer reactions at once, or raise the topic's max.message.bytes"
    )]
    TooLarge {
        /// The topic's name.
        topic: String,
        /// Bytes of the record.
        bytes: u64,
        /// Maximum bytes of a record of the topic.
        most: u64,
    },
    /// The topic does not accept the record; a retry cannot succeed.
    #[error("topic {topic} does not accept a record of {bytes} bytes: {reason}")]
    NotAccepted {
        /// The topic's name.
        topic: String,
        /// The bytes of the record's key and value.
        bytes: usize,
        /// The problem, and the setting to change.
        reason: String,
    },
    /// The brokers do not allow a transaction timeout of this length.
    #[error(
        "the brokers do not allow a transaction timeout of {timeout:?} (--commit-timeout); use a shorter one, or raise their transaction.max.timeout.ms"
    )]
    TransactionTimeout {
        /// The requested timeout.
        timeout: Duration,
    },
    /// The client's principal does not have a permission.
    #[error(
        "Kafka denies this client {operation} on {resource}; give its principal that permission (`emostream topics check` prints the commands)"
    )]
    Denied {
        /// Kafka's name of the operation: `Describe`, `Read`, `Write`, `Create` or `DescribeConfigs`.
        operation: &'static str,
        /// The resource with its kind, for example `topic t` or `transactional id t`.
        resource: String,
        /// Whether the brokers have denied the request for as long as [`KafkaOptions::denial_timeout`]. Then the reason
        /// is not a new ACL that has not reached all brokers yet.
        ///
        /// [`KafkaOptions::denial_timeout`]: crate::kafka::KafkaOptions::denial_timeout
        repeated: bool,
    },
    /// The appender's queue is full.
    #[error("the log's queue is full; retry when the log has caught up")]
    Full,
    /// The log did not acknowledge in time.
    #[error("the log did not acknowledge in time: {detail}")]
    TimedOut {
        /// The report of the client library.
        detail: String,
    },
    /// The time of the record is further in the future than the topic allows.
    #[error(
        "the record's time is {ahead_ms} ms in the future, more than topic {topic} accepts; check this host's clock"
    )]
    Ahead {
        /// The topic's name.
        topic: String,
        /// The milliseconds by which the record's time is in the future.
        ahead_ms: u64,
    },
    /// A newer transactor of the same id exists.
    #[error("fenced: a newer run uses the transactional id {id}")]
    Fenced {
        /// The transactor's id.
        id: String,
    },
    /// The transaction was aborted, or its outcome is unknown.
    #[error("the transaction failed: {detail}")]
    Aborted {
        /// The report of the client library.
        detail: String,
    },
    /// Another process uses the data directory.
    #[error("{} is in use by another emostream; stop that process, or set another --data directory", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The files of the data directory cannot be read as a log.
    #[error("the log in {} is damaged ({detail}); move the directory away to start with an empty log, or restore it from a backup", dir.display())]
    Damaged {
        /// The data directory.
        dir: PathBuf,
        /// The report of the database.
        detail: String,
    },
    /// The disk failed.
    #[error("the log cannot use {}: {detail}", dir.display())]
    Disk {
        /// The data directory.
        dir: PathBuf,
        /// The report of the operating system.
        detail: String,
    },
    /// A client property is invalid.
    #[error("{origin} {property}: {detail}")]
    Property {
        /// The source of the property: `-X`, or `--kafka-config` with the file.
        origin: String,
        /// The librdkafka property.
        property: String,
        /// The reason why the property cannot be used.
        detail: String,
    },
    /// The log refused the request for any other reason.
    #[error("the log refused the request: {0}")]
    Refused(String),
}
