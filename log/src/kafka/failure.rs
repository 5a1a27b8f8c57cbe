//! What Kafka's error codes mean to a user of the log.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::LogError;

/// The meaning of an error about a topic and a partition; `None` if it only says that Kafka is away.
pub(super) fn of(error: &KafkaError, topic: &str, partition: u32) -> Option<LogError> {
    let topic = topic.to_owned();
    Some(match code(error)? {
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
        | Code::WaitingForCoordinator => return None,
        _ if is_change_of_leader(error) => return None,
        _ => LogError::Refused(error.to_string()),
    })
}

/// Whether it says that a partition's leader is about to change: the broker that was asked is it no
/// more, or does not know yet that it is.
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

/// Whether it says of a partition that exists that its leader is not known yet.
pub(super) fn seeks_leader(error: &KafkaError) -> bool {
    let not_heard_of = Some(Code::UnknownPartition);
    is_change_of_leader(error) || code(error) == not_heard_of
}

/// Whether it says that a newer transactor has taken over.
pub(super) fn is_fence(error: &KafkaError) -> bool {
    code(error).is_some_and(fences)
}

/// Whether that code says so.
pub(super) fn fences(code: Code) -> bool {
    matches!(
        code,
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
    )
}

/// librdkafka's code, which [`KafkaError`] gives for all but transactions.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    }
}
