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
        _ => LogError::Refused(error.to_string()),
    })
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
