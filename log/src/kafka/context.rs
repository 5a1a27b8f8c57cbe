//! Where librdkafka's log lines and errors go.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use rdkafka::{
    ClientContext, Statistics,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, RDKafkaErrorCode},
    statistics::Broker,
};

/// Hands log lines to `tracing` (at debug: librdkafka tells the same troubles as errors too) and
/// remembers the last error, which says best why nothing answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    last: Arc<Mutex<Option<String>>>,
    /// While set, somebody waits for the outcome and will tell it in one sentence.
    connecting: Arc<AtomicBool>,
    /// Statistics in a row that knew of no broker to talk to.
    alone: Arc<AtomicU32>,
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

    /// Whether the client has had no broker to talk to for two statistics, if it makes any.
    ///
    /// A cluster that has just come back may name no brokers at all for a moment. librdkafka 2.12 then
    /// throws away those it knew, and may not look for others for minutes.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed) > 1
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

    fn stats(&self, statistics: Statistics) {
        let mut brokers = statistics.brokers.values();
        let talks = |broker: &Broker| {
            let real = matches!(broker.source.as_str(), "learned" | "configured");
            real && matches!(broker.state.as_str(), "UP" | "UPDATE")
        };
        match brokers.any(talks) {
            true => self.alone.store(0, Ordering::Relaxed),
            false => drop(self.alone.fetch_add(1, Ordering::Relaxed)),
        }
    }

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
