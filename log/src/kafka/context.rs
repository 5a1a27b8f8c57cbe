//! Where librdkafka's log lines and errors go.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

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
    /// While set, somebody waits for the outcome and will tell it in one sentence.
    connecting: Arc<AtomicBool>,
}

impl Events {
    /// Of a client that connects for the first time: its troubles are the connector's to tell.
    pub(super) fn connecting() -> Self {
        let events = Self::default();
        events.connecting.store(true, Ordering::Release);
        events
    }

    /// From now on troubles are logged as they come.
    pub(super) fn connected(&self) {
        self.connecting.store(false, Ordering::Release);
    }

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
            _ if self.connecting.load(Ordering::Acquire) => tracing::debug!("Kafka: {reason}"),
            _ => tracing::warn!("Kafka: {reason}"),
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}

impl ConsumerContext for Events {}
