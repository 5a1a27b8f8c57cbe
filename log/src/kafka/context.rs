//! Where librdkafka's log lines and errors go.

#![allow(clippy::disallowed_methods, reason = "limits log lines by time")]

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    statistics::Broker,
};

use super::{
    oauth::Tokens,
    trouble::{self, Trouble},
};

/// How long the same trouble with TLS or SASL is not logged again: each client of the process reports it, with
/// every attempt to connect.
const REPEAT_AFTER: Duration = Duration::from_secs(30);

/// How long a report counts as the reason why no broker answers. librdkafka repeats an unchanged one every 30 s.
const EXPLAINS_FOR: Duration = Duration::from_secs(60);

/// Hands log lines to `tracing` (at debug: librdkafka tells the same troubles as errors too) and
/// remembers the last error, which says best why nothing answers.
#[derive(Debug, Clone)]
pub(super) struct Events {
    /// Where the client's token comes from, if it authenticates by one.
    tokens: Option<Arc<Tokens>>,
    last: Arc<Mutex<Option<Report>>>,
    /// While set, somebody waits for the outcome and will tell it in one sentence.
    connecting: Arc<AtomicBool>,
    /// Statistics in a row that knew of no broker to talk to.
    alone: Arc<AtomicU32>,
    /// Whether the client commits offsets of a group.
    commits: bool,
}

/// What librdkafka reported, and when.
#[derive(Debug, Clone)]
struct Report {
    text: String,
    at: Instant,
}

impl Events {
    pub(super) fn new(tokens: Option<Arc<Tokens>>) -> Self {
        Self {
            tokens,
            last: Arc::default(),
            connecting: Arc::default(),
            alone: Arc::default(),
            commits: false,
        }
    }

    /// Of a client that connects for the first time: its troubles are the connector's to tell.
    pub(super) fn connecting(self) -> Self {
        self.connecting.store(true, Ordering::Release);
        self
    }

    /// Of a client that commits offsets of a group.
    pub(super) fn committing(self) -> Self {
        Self {
            commits: true,
            ..self
        }
    }

    /// The token for the client; never waits.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.tokens {
            Some(tokens) => Ok(tokens.current()?),
            None => Err("the properties name no token endpoint".into()),
        }
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
        self.report().map(|report| report.text)
    }

    /// The last trouble, if it is recent and about TLS or SASL.
    pub(super) fn last_about_security(&self) -> Option<String> {
        let report = self.report()?;
        let explains = report.at.elapsed() < EXPLAINS_FOR && self.trouble(&report.text).is_some();
        explains.then_some(report.text)
    }

    /// The brokers answered, so that no earlier report explains a later failure.
    pub(super) fn answered(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn report(&self) -> Option<Report> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the report says about TLS or SASL.
    fn trouble(&self, report: &str) -> Option<Trouble> {
        let connecting = self.connecting.load(Ordering::Acquire);
        trouble::of(report).filter(|trouble| connecting || !trouble.is_guess())
    }

    /// Remembers a report, and logs it unless it is logged elsewhere.
    fn take_in(&self, report: &str) {
        let connecting = self.connecting.load(Ordering::Acquire);
        match self.trouble(report) {
            _ if connecting => tracing::debug!("Kafka: {report}"),
            // Logged once, where the token was requested.
            Some(Trouble::NoToken(_)) => tracing::debug!("Kafka: {report}"),
            Some(trouble) => {
                let broker = trouble::broker(report).unwrap_or("a broker");
                let sentence = format!("Kafka at {broker}: {trouble}");
                match is_due(&sentence) {
                    true => tracing::warn!("{sentence}"),
                    false => tracing::debug!("Kafka: {report}"),
                }
            }
            None => tracing::warn!("Kafka: {report}"),
        }
        let report = Report {
            text: report.to_owned(),
            at: Instant::now(),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}

/// Returns whether the process has not logged `sentence` for [`REPEAT_AFTER`], and remembers it as logged now.
pub(super) fn is_due(sentence: &str) -> bool {
    static LOGGED: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.retain(|_, at| at.elapsed() < REPEAT_AFTER);
    let due = !logged.contains_key(sentence);
    if due {
        logged.insert(sentence.to_owned(), Instant::now());
    }
    due
}

impl ClientContext for Events {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.token()
    }

    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", facility, "{message}");
        // That a broker closed the connection is a log line only, which begins with the thread: `[thrd:…]: `.
        let report = message
            .split_once("]: ")
            .map_or(message, |(_, report)| report);
        if facility == "FAIL" && self.trouble(report).is_some_and(|it| it.is_guess()) {
            self.take_in(report);
        }
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
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) => {}
            // Reported by `Denials`.
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => tracing::debug!("Kafka: {reason}"),
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) if self.commits => {
                not_committed(&reason);
            }
            // Of a reader, which needs no group.
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => tracing::debug!("Kafka: {reason}"),
            // The single broker's own error has been told just before, and says more.
            Some(RDKafkaErrorCode::AllBrokersDown) => tracing::debug!("Kafka: {reason}"),
            _ => self.take_in(reason),
        }
    }
}

impl ConsumerContext for Events {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            not_committed(&error);
        }
    }
}

fn not_committed(why: &dyn std::fmt::Display) {
    let sentence = format!(
        "Kafka: the consumer group's offsets, which only lag tools need, are not committed: {why}"
    );
    if is_due(&sentence) {
        tracing::warn!("{sentence}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS_PORT: &str = "h:9093/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 0ms in state APIVERSION_QUERY)";

    #[test]
    fn a_sentence_is_logged_once_however_many_clients_report_it() {
        assert!(is_due("one"));
        assert!(!is_due("one"));
        assert!(is_due("two"));
    }

    #[test]
    fn a_closed_connection_is_blamed_on_the_configuration_only_until_one_was_made() {
        let events = Events::new(None).connecting();
        events.log(
            RDKafkaLogLevel::Info,
            "FAIL",
            &format!("[thrd:h:9093/bootstrap]: {TLS_PORT}"),
        );
        assert_eq!(events.last_about_security().as_deref(), Some(TLS_PORT));
        events.answered();
        events.connected();
        events.log(
            RDKafkaLogLevel::Info,
            "FAIL",
            &format!("[thrd:h:9093/bootstrap]: {TLS_PORT}"),
        );
        assert_eq!(events.last_about_security(), None);
    }

    #[test]
    fn an_answer_ends_an_explanation() {
        let events = Events::new(None);
        let report = "sasl_ssl://h:9093/1: SASL authentication error: Authentication failed";
        let code = RDKafkaErrorCode::Authentication;
        events.error(KafkaError::Global(code), report);
        assert_eq!(events.last_about_security().as_deref(), Some(report));
        events.answered();
        assert_eq!(events.last_about_security(), None);
    }
}
