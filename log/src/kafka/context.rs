//! Where librdkafka's log lines and errors go.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
};

/// Hands log lines to `tracing` (at debug: librdkafka tells the same troubles as errors too) and
/// remembers the last error, which says best why nothing answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    last: Arc<Mutex<Option<String>>>,
}

impl Events {
    /// The last trouble, in librdkafka's words.
    pub(super) fn last(&self) -> Option<String> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ClientContext for Events {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
    }

    fn stats(&self, _statistics: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // These are answers to a reader, not troubles.
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) => return,
            // The single broker's own error has been told just before, and says more.
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                tracing::debug!("Kafka: {reason}");
                return;
            }
            _ => tracing::warn!("Kafka: {reason}"),
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for Events {}
