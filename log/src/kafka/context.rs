//! Handles log lines, errors and statistics of librdkafka.

#![allow(
    clippy::disallowed_methods,
    reason = "measures the time between log lines"
)]

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

/// Minimum time between two equal warnings. Each client of the process reports the same error, at every attempt to
/// connect.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// Time for which a report counts as the reason why no broker responds. librdkafka repeats an unchanged report every 30
/// s, so an older one may not be true any more.
const REPORT_LIFETIME: Duration = Duration::from_secs(60);

/// The context of a client. It passes log lines to `tracing`, at level debug since librdkafka also reports the same
/// problems as errors. It stores the last error, which explains why no broker responds.
#[derive(Debug, Clone)]
pub(super) struct Events {
    /// The source of the client's tokens, if it uses them.
    tokens: Option<Arc<Tokens>>,
    last: Arc<Mutex<Option<Report>>>,
    /// Whether the client connects for the first time. Then errors are not logged, since the caller waits for the
    /// result and reports it.
    connecting: Arc<AtomicBool>,
    /// Number of consecutive statistics that showed no connection to a broker.
    without_broker: Arc<AtomicU32>,
    /// Whether the client commits offsets of a group.
    commits: bool,
}

/// A report of librdkafka, with its time.
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
            without_broker: Arc::default(),
            commits: false,
        }
    }

    /// Returns the context of a client that connects for the first time: the caller reports its errors.
    pub(super) fn connecting(self) -> Self {
        self.connecting.store(true, Ordering::Release);
        self
    }

    /// Returns the context of a client that commits offsets of a group.
    pub(super) fn committing(self) -> Self {
        Self {
            commits: true,
            ..self
        }
    }

    /// Returns the token for the client. Does not block.
    pub(super) fn token(&self) -> Result<OAuthToken, Box<dyn Error>> {
        match &self.tokens {
            Some(tokens) => Ok(tokens.current()?),
            None => Err("no property names the token endpoint".into()),
        }
    }

    /// Marks the client as connected. Further errors are logged when they occur.
    pub(super) fn connected(&self) {
        self.connecting.store(false, Ordering::Release);
    }

    /// Returns whether the last two statistics showed no connection to a broker; `false` for a client without
    /// statistics.
    ///
    /// For a moment, the metadata of a cluster that has just recovered may contain no brokers at all. librdkafka 2.12
    /// then forgets the brokers that it knew, and may not look for others for minutes. So such a client has to be
    /// replaced.
    pub(super) fn has_no_broker(&self) -> bool {
        self.without_broker.load(Ordering::Relaxed) > 1
    }

    /// Returns the last error, in librdkafka's words.
    pub(super) fn last(&self) -> Option<String> {
        self.report().map(|report| report.text)
    }

    /// Returns the last error, if it is recent and about TLS or SASL.
    pub(super) fn last_about_security(&self) -> Option<String> {
        let report = self.report()?;
        let explains =
            report.at.elapsed() < REPORT_LIFETIME && self.trouble(&report.text).is_some();
        explains.then_some(report.text)
    }

    /// Removes the last report after a response, so that it does not explain a later failure.
    pub(super) fn answered(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn report(&self) -> Option<Report> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the problem with TLS or SASL that the report describes. A guess counts only while the client connects
    /// for the first time.
    fn trouble(&self, report: &str) -> Option<Trouble> {
        let connecting = self.connecting.load(Ordering::Acquire);
        trouble::of(report).filter(|trouble| connecting || !trouble.is_guess())
    }

    /// Stores a report, and logs it as a warning unless another place logs it.
    fn record_report(&self, report: &str) {
        let connecting = self.connecting.load(Ordering::Acquire);
        match self.trouble(report) {
            _ if connecting => tracing::debug!("Kafka: {report}"),
            // The place that requested the token has logged the reason.
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

/// Returns whether `sentence` may be logged, because the process has not logged it for [`REPEAT_INTERVAL`]. If so,
/// stores it as logged now.
pub(super) fn is_due(sentence: &str) -> bool {
    static LOGGED: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.retain(|_, at| at.elapsed() < REPEAT_INTERVAL);
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
        // librdkafka reports a connection that a broker closed only by a log line. The line begins with the name of the
        // thread, `[thrd:…]: `, which is removed here.
        let report = message
            .split_once("]: ")
            .map_or(message, |(_, report)| report);
        if facility == "FAIL" && self.trouble(report).is_some_and(|it| it.is_guess()) {
            self.record_report(report);
        }
    }

    fn stats(&self, statistics: Statistics) {
        let mut brokers = statistics.brokers.values();
        let talks = |broker: &Broker| {
            let real = matches!(broker.source.as_str(), "learned" | "configured");
            real && matches!(broker.state.as_str(), "UP" | "UPDATE")
        };
        match brokers.any(talks) {
            true => self.without_broker.store(0, Ordering::Relaxed),
            false => drop(self.without_broker.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // The reader handles these events.
            Some(RDKafkaErrorCode::PartitionEOF | RDKafkaErrorCode::AutoOffsetReset) => {}
            // `Denials` logs this error.
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => tracing::debug!("Kafka: {reason}"),
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) if self.commits => {
                not_committed(&reason);
            }
            // Readers have a group id, but need no permission for the group.
            Some(RDKafkaErrorCode::GroupAuthorizationFailed) => tracing::debug!("Kafka: {reason}"),
            // librdkafka has already reported the error of each broker, with its reason.
            Some(RDKafkaErrorCode::AllBrokersDown) => tracing::debug!("Kafka: {reason}"),
            _ => self.record_report(reason),
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
    fn a_sentence_is_logged_once_for_all_clients() {
        assert!(is_due("one"));
        assert!(!is_due("one"));
        assert!(is_due("two"));
    }

    #[test]
    fn a_closed_connection_is_a_configuration_error_only_before_the_first_connection() {
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
    fn a_response_clears_the_last_report() {
        let events = Events::new(None);
        let report = "sasl_ssl://h:9093/1: SASL authentication error: Authentication failed";
        let code = RDKafkaErrorCode::Authentication;
        events.error(KafkaError::Global(code), report);
        assert_eq!(events.last_about_security().as_deref(), Some(report));
        events.answered();
        assert_eq!(events.last_about_security(), None);
    }
}
