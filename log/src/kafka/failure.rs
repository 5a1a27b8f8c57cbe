//! Converts Kafka's error codes to errors of the log.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::trouble;
use crate::LogError;

/// The operation that failed, by its name in Kafka's ACLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Describe,
    Read,
    Write,
    Create,
    DescribeConfigs,
}

impl Operation {
    /// Returns the error for a missing permission: the client's principal may not do this operation on `resource`.
    pub(super) fn denied(self, resource: String) -> LogError {
        LogError::Denied {
            operation: match self {
                Operation::Describe => "Describe",
                Operation::Read => "Read",
                Operation::Write => "Write",
                Operation::Create => "Create",
                Operation::DescribeConfigs => "DescribeConfigs",
            },
            resource,
            repeated: false,
        }
    }
}

/// Returns whether the code means that the client's principal does not have a permission.
pub(super) fn is_denial(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

/// Converts the error of an operation on a topic and a partition; `None` if the error only means that no broker, or no
/// leader of the partition, is reachable.
pub(super) fn of(
    error: &KafkaError,
    operation: Operation,
    topic: &str,
    partition: u32,
) -> Option<LogError> {
    let topic = topic.to_owned();
    Some(match code(error)? {
        denial if is_denial(denial) => operation.denied(format!("topic {topic}")),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => LogError::UnknownTopic { topic },
        Code::UnknownPartition => LogError::UnknownPartition { topic, partition },
        Code::QueueFull => LogError::Full,
        Code::MessageTimedOut | Code::RequestTimedOut => LogError::TimedOut {
            detail: error.to_string(),
        },
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::OperationTimedOut
        | Code::NetworkException
        | Code::Resolve
        | Code::SSL
        | Code::Authentication
        | Code::WaitingForCoordinator => return None,
        _ if is_change_of_leader(error) => return None,
        _ => LogError::Refused(format!("{topic}/{partition}: {error}")),
    })
}

/// Converts the error of writing a record of `bytes` bytes; `None` if the error only means that no broker, or no leader
/// of the partition, is reachable.
pub(super) fn of_write(
    error: &KafkaError,
    topic: &str,
    partition: u32,
    bytes: usize,
) -> Option<LogError> {
    not_accepted(error, topic, bytes).or_else(|| of(error, Operation::Write, topic, partition))
}

/// Returns the error if the topic does not accept the record, so that a retry cannot succeed; `None` for other errors.
fn not_accepted(error: &KafkaError, topic: &str, bytes: usize) -> Option<LogError> {
    let reason = match code(error)? {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            "the record is too large; raise the topic's max.message.bytes"
        }
        Code::InvalidRecord => {
            "the brokers reject the record as invalid; compare the topic's settings with `emostream topics check`"
        }
        Code::InvalidTimestamp => {
            "the record's time is outside the range that the topic allows; change message.timestamp.before.max.ms or message.timestamp.after.max.ms"
        }
        Code::PolicyViolation => "a policy of the cluster forbids the record",
        Code::UnsupportedForMessageFormat => "the topic's format is too old for the record",
        _ => return None,
    };
    Some(LogError::NotAccepted {
        topic: topic.to_owned(),
        bytes,
        reason: reason.to_owned(),
    })
}

/// Returns whether the error means that the partition's leader is changing: the broker is not the leader any more, or
/// does not know yet that it is the leader.
fn is_change_of_leader(error: &KafkaError) -> bool {
    matches!(
        code(error),
        Some(
            Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
        )
    )
}

/// Returns whether the error means that the client does not know the leader of an existing partition yet.
pub(super) fn seeks_leader(error: &KafkaError) -> bool {
    let unknown = Some(Code::UnknownPartition);
    is_change_of_leader(error) || code(error) == unknown
}

/// Returns whether the error means that a newer transactor has fenced this one.
pub(super) fn is_fence(error: &KafkaError) -> bool {
    code(error).is_some_and(fences)
}

/// Returns whether the code means that the producer is fenced.
pub(super) fn fences(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
    )
}

/// Converts a report of librdkafka about TLS or SASL; `None` if the report is about something else.
pub(super) fn security(brokers: &str, report: &str) -> Option<LogError> {
    let trouble = trouble::of(report)?;
    Some(LogError::Security {
        broker: trouble::broker(report).unwrap_or(brokers).to_owned(),
        detail: trouble.to_string(),
    })
}

/// Returns the error for the case that no broker responds, from librdkafka's last report. The report begins with the
/// broker: `host:port/bootstrap` for a configured address, or `host:port/7`, with the broker's id, for an advertised
/// one.
pub(super) fn silence(brokers: &str, trouble: String) -> LogError {
    if let Some(error) = security(brokers, &trouble) {
        return error;
    }
    let id = trouble
        .split(": ")
        .next()
        .and_then(|it| it.rsplit_once('/'));
    let named = trouble::broker(&trouble).is_some_and(|address| {
        let configured = brokers.split(',').any(|broker| broker.trim() == address);
        id.is_some_and(|(_, id)| id.parse::<u32>().is_ok()) && !configured
    });
    let (brokers, detail) = (brokers.to_owned(), trouble);
    match named {
        true => LogError::Advertised { brokers, detail },
        false => LogError::Unreachable { brokers, detail },
    }
}

/// Returns librdkafka's error code. [`KafkaError::rdkafka_error_code`] returns it for all errors except those of
/// administrative requests.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_response_is_reported_with_the_broker_that_did_not_respond() {
        let named = "kafka-0.invalid:9092/1: Failed to resolve 'kafka-0.invalid:9092': unknown";
        let error = silence("127.0.0.1:9092", named.to_owned());
        assert!(matches!(error, LogError::Advertised { .. }), "{error}");
        assert!(
            error.to_string().contains("kafka-0.invalid:9092"),
            "{error}"
        );
        for own in [
            "127.0.0.1:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: refused",
            "127.0.0.1:9092/1: Disconnected",
            "sasl_ssl://127.0.0.1:9092/1: Disconnected",
            "no response within 8s",
        ] {
            let error = silence("a:1, 127.0.0.1:9092", own.to_owned());
            assert!(matches!(error, LogError::Unreachable { .. }), "{error}");
        }
    }

    #[test]
    fn a_wrong_password_is_reported_as_a_security_error() {
        let report =
            "sasl_ssl://h:9093/bootstrap: SASL authentication error: Authentication failed";
        let error = silence("h:9093", report.to_owned());
        assert!(matches!(error, LogError::Security { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "Kafka at h:9093: SASL authentication failed; check sasl.username, sasl.password and sasl.mechanism"
        );
    }
}
