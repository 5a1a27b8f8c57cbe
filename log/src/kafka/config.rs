//! librdkafka's settings: EmoStream's own, each with its reason, and over them the user's, but for those that
//! are [`protected`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::KafkaError,
};

use super::{
    Fetching, KafkaOptions, builtin,
    context::Events,
    denials::Denials,
    oauth::{Endpoint, Objection, Oidc, Tokens},
    options::{self, Property},
    protected,
};
use crate::LogError;

/// A client whose last broker is gone is replaced, not more often than this.
pub(super) const REPLACE_EVERY: Duration = Duration::from_secs(10);

/// A request that a broker has not answered by then is sent anew.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// The most bytes that librdkafka sends together by default.
const LARGEST_BATCH: u64 = 1_000_000;

/// How often a client that is always served says whether it has a broker; another would only gather
/// what it says.
const STATISTICS_MS: &str = "2000";

/// Properties that name a file. librdkafka reports a missing one only when it creates a client, in OpenSSL's words.
const FILES: [&str; 6] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "https.ca.location",
];

/// The SASL mechanisms that work in a build with TLS.
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"];

/// The value of `ssl.ca.location` that looks for the system's certificates where distributions put them.
pub(super) const PROBE: &str = "probe";

/// Makes the settings of every kind of client.
#[derive(Debug, Clone)]
pub(super) struct Config {
    brokers: String,
    fetching: Fetching,
    /// The user's, each once.
    properties: Arc<[Property]>,
    /// What librdkafka was built with.
    features: Arc<[String]>,
    denials: Denials,
    /// Whether transactors send each record by itself.
    singly: Arc<AtomicBool>,
    /// Where tokens come from, once the first was requested.
    tokens: Option<Arc<Tokens>>,
}

impl Config {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        Self {
            brokers: options.brokers.clone(),
            fetching: options.fetching,
            properties: options.effective().into(),
            features: builtin::security_features().into(),
            denials: Denials::new(options.denial_patience),
            singly: Arc::default(),
            tokens: None,
        }
    }

    /// The configuration of readers that stop at the current end of a topic. The end of a partition shows only when a
    /// fetch returns nothing, and a fetch with `fetch.min.bytes` 1 waits half a second before it does.
    pub(super) fn for_scans(&self) -> Config {
        Config {
            fetching: Fetching::InBulk,
            ..self.clone()
        }
    }

    /// What the brokers deny to this log's clients.
    pub(super) fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Whether transactors send each record by itself, because a topic did not accept several together.
    pub(super) fn sends_singly(&self) -> bool {
        self.singly.load(Ordering::Relaxed)
    }

    /// Transactors that are opened from now on send each record by itself.
    pub(super) fn send_singly(&self) {
        self.singly.store(true, Ordering::Relaxed);
    }

    /// Requests the token that every client authenticates by, if the user's properties say so.
    pub(super) fn request_token(&mut self) -> Result<(), LogError> {
        if let Some(oidc) = self.oidc()? {
            let endpoint = Endpoint::new(oidc).map_err(|objection| self.blame(objection))?;
            self.tokens = Some(Arc::new(Tokens::start(endpoint, &self.brokers)?));
        }
        Ok(())
    }

    /// Where tokens come from, if clients authenticate by them.
    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_deref()
    }

    /// What a client reports to.
    pub(super) fn events(&self) -> Events {
        Events::new(self.tokens.clone())
    }

    fn oidc(&self) -> Result<Option<Oidc>, LogError> {
        Oidc::of(&self.properties).map_err(|objection| self.blame(objection))
    }

    fn blame(&self, (name, why): Objection) -> LogError {
        let mut properties = self.properties.iter();
        match properties.find(|it| it.canonical() == name) {
            Some(property) => refused(property, why),
            None => LogError::Refused(why),
        }
    }

    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Finds a property that is protected, that this build cannot use or that librdkafka refuses, before any
    /// client is made.
    pub(super) fn check(&self) -> Result<(), LogError> {
        for property in &*self.properties {
            if let Some(why) = self.objection(property) {
                return Err(refused(property, why));
            }
        }
        self.oidc()?;
        let native = self.client().create_native_config();
        native.map(drop).map_err(|error| self.refusal(&error))
    }

    /// Why a property cannot be used; `None` if librdkafka has to judge.
    fn objection(&self, property: &Property) -> Option<String> {
        let (name, value) = (property.canonical(), property.value.as_str());
        if let Some(reason) = protected::reason(name, value) {
            return Some(format!("cannot be set: {reason}; leave it out"));
        }
        if options::is_brokers(name) {
            return Some("cannot be set by -X; name the brokers with --kafka".to_owned());
        }
        if let Some(why) = builtin::missing(&self.features, name, value) {
            return Some(why);
        }
        if name == "sasl.mechanisms" && !MECHANISMS.iter().any(|it| it.eq_ignore_ascii_case(value))
        {
            return Some(format!("{value} is none of {}", MECHANISMS.join(", ")));
        }
        let protocol = value.to_lowercase();
        if name == "security.protocol"
            && protocol.starts_with("sasl_")
            && self.value("sasl.mechanisms").is_none()
        {
            return Some(format!(
                "{protocol} needs sasl.mechanism too, one of {}",
                MECHANISMS.join(", ")
            ));
        }
        if FILES.contains(&name) && value != PROBE {
            return match std::fs::File::open(value) {
                Ok(_) => None,
                Err(error) => Some(format!("{value}: {error}")),
            };
        }
        None
    }

    /// The value of the user's property, by its name in librdkafka.
    pub(super) fn value(&self, canonical: &str) -> Option<&str> {
        let found = self
            .properties
            .iter()
            .find(|property| property.canonical() == canonical);
        found.map(|property| property.value.as_str())
    }

    /// A client that asks and administers, but neither reads nor writes.
    pub(super) fn client(&self) -> ClientConfig {
        self.settle(self.common())
    }

    /// As [`Config::client`], but its end offsets include open transactions.
    pub(super) fn uncommitted(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        config
    }

    /// A client that commits offsets of `group`.
    pub(super) fn group_member(&self, group: &str) -> ClientConfig {
        let mut config = self.common();
        config.set("enable.auto.commit", "false");
        let mut config = self.settle(config);
        // After the user's properties: a `group.id` among them is for the readers, which commit nothing.
        config.set("group.id", group);
        config
    }

    /// A client that reads committed records from offsets of our own.
    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            // Without a group librdkafka has no assignment. Nothing joins it and nothing is committed.
            .set("group.id", "emostream-readers")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // A reader must hear that its offset is gone, not be moved.
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", STATISTICS_MS)
            // A flipped bit would be counted; the processor checks CRC32C for next to nothing.
            .set("check.crcs", "true")
            // What lies in the queue is memory: 64 MB of small records are 500 MB of messages, and out of
            // every cache. 4 MB a partition took a backlog from 800 MB to 140, and a fifth off its CPU.
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "4096")
            // A full queue waits so long before it asks again; the default is a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.error.backoff.ms", "100");
        let (bytes, wait_ms) = match self.fetching {
            Fetching::AtOnce => ("1", "500"),
            Fetching::InBulk => ("65536", "15"),
        };
        config
            .set("fetch.min.bytes", bytes)
            .set("fetch.wait.max.ms", wait_ms);
        self.settle(config)
    }

    /// A producer whose records are acknowledged, or refused for good, within `timeout`, and which sends at
    /// most so many bytes together.
    pub(super) fn producer(&self, timeout: Duration, bytes: Option<u64>) -> ClientConfig {
        let mut config = self.writing(timeout);
        if let Some(bytes) = bytes {
            // A broker refuses all records of a batch that is larger than the topic takes.
            config.set("batch.size", bytes.clamp(1, LARGEST_BATCH).to_string());
        }
        config
            .set("statistics.interval.ms", STATISTICS_MS)
            // Where a record may take as long as it likes, a broker that does not answer may not: then
            // it is asked again, on another connection.
            .set("request.timeout.ms", millis(timeout.min(REQUEST_TIMEOUT)));
        self.settle(config)
    }

    /// A producer of transactions that Kafka aborts after `timeout`.
    pub(super) fn transactional(&self, id: &str, timeout: Duration) -> ClientConfig {
        let mut config = self.writing(timeout);
        config
            .set("transactional.id", id)
            // Must not be shorter than message.timeout.ms.
            .set("transaction.timeout.ms", millis(timeout));
        if self.sends_singly() {
            config.set("batch.num.messages", "1");
        }
        self.settle(config)
    }

    fn common(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "emostream")
            // A broker that comes back is noticed within a second; the default lets ten pass.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // Our own metrics are at /metrics; the cluster is not asked to collect them.
            .set("enable.metrics.push", "false");
        let names_ca = |it: &Property| it.canonical().starts_with("ssl.ca.");
        if self.features.iter().any(|it| it == "ssl") && !self.properties.iter().any(names_ca) {
            // Each distribution has another directory for the system's certificates; the OpenSSL that is linked
            // statically would look only in the one that it was built with.
            config.set("ssl.ca.location", PROBE);
        }
        config
    }

    fn writing(&self, timeout: Duration) -> ClientConfig {
        let mut config = self.common();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.codec", "lz4")
            .set("linger.ms", "2")
            .set("message.timeout.ms", millis(timeout))
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536")
            // As Kafka's Java client: a key has one partition, whoever writes it.
            .set("partitioner", "murmur2_random")
            // A partition that was added is written to soon; the default lets five minutes pass.
            .set("topic.metadata.refresh.interval.ms", "30000")
            // Topics are made and waited for before they are written to; the default of 30 s is longer
            // than any record lives.
            .set("topic.metadata.propagation.max.ms", "2000");
        config
    }

    fn settle(&self, mut config: ClientConfig) -> ClientConfig {
        let with_tokens = matches!(self.oidc(), Ok(Some(_)));
        for property in &*self.properties {
            if !(with_tokens && Oidc::takes(property.canonical())) {
                config.set(property.canonical(), &property.value);
            }
        }
        let verbose = tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG);
        config.set_log_level(if verbose {
            RDKafkaLogLevel::Debug
        } else {
            // Lines up to this level are the only report that a broker closed a connection, and of the topic that
            // a transaction may not write to.
            RDKafkaLogLevel::Info
        });
        config
    }

    /// Makes a client; librdkafka may find only then that two settings do not go together.
    pub(super) fn create<Context, Client>(
        &self,
        config: &ClientConfig,
        context: Context,
    ) -> Result<Client, LogError>
    where
        Context: ClientContext,
        Client: FromClientConfigAndContext<Context>,
    {
        config
            .create_with_context(context)
            .map_err(|error| self.refusal(&error))
    }

    /// Why librdkafka makes no such client: the user's property, if one is at the bottom of it.
    fn refusal(&self, error: &KafkaError) -> LogError {
        let user = |names: &dyn Fn(&str) -> bool| {
            let mut properties = self.properties.iter();
            properties.find(|it| names(&it.name) || names(it.canonical()))
        };
        let (blamed, detail) = match error {
            KafkaError::ClientConfig(_, detail, key, _) => {
                (user(&|name| name == key), detail.clone())
            }
            other => {
                let detail = match other {
                    KafkaError::ClientCreation(detail) => detail.clone(),
                    other => other.to_string(),
                };
                let blamed = user(&|name| !name.is_empty() && detail.contains(name));
                (blamed, detail)
            }
        };
        let detail = self.redacted(&detail);
        match blamed {
            Some(property) => refused(property, detail),
            None => LogError::Refused(detail),
        }
    }

    /// A text of librdkafka's without the secrets that it may repeat, which it does in quotes. The same word elsewhere
    /// in the text is librdkafka's own, and would reveal the secret if it were replaced.
    fn redacted(&self, text: &str) -> String {
        let secrets = self.properties.iter().filter(|it| it.is_secret());
        let values = secrets.map(|it| it.value.as_str());
        let mut text = text.to_owned();
        for value in values.filter(|value| !value.is_empty()) {
            text = text.replace(&format!("\"{value}\""), "[redacted]");
        }
        text
    }
}

fn refused(property: &Property, detail: String) -> LogError {
    LogError::Property {
        origin: property.origin.to_string(),
        property: property.name.clone(),
        detail,
    }
}

fn millis(span: Duration) -> String {
    span.as_millis().to_string()
}

/// A partition as librdkafka counts it; there are never more than it can.
pub(super) fn signed(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// An offset as we count it; librdkafka's negative ones have been told apart before.
pub(super) fn unsigned(offset: i64) -> u64 {
    u64::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::PropertiesFile;

    fn config(properties: &[(&str, &str)]) -> Config {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Config::new(&KafkaOptions {
            brokers: "127.0.0.1:9092".to_owned(),
            properties: properties.iter().map(owned).collect(),
            ..KafkaOptions::default()
        })
    }

    fn objection(properties: &[(&str, &str)]) -> String {
        let refused = config(properties).check().expect_err("it is refused");
        assert!(matches!(refused, LogError::Property { .. }), "{refused}");
        refused.to_string()
    }

    #[test]
    fn the_system_s_certificates_are_looked_for_unless_the_user_names_others() {
        let default = config(&[]);
        let has_tls = default.features.iter().any(|it| it == "ssl");
        let location = |config: &Config| config.client().get("ssl.ca.location").map(str::to_owned);
        assert_eq!(location(&default), has_tls.then(|| PROBE.to_owned()));
        assert_eq!(default.check().map_err(|error| error.to_string()), Ok(()));
        let named = config(&[("ssl.ca.location", "/ca.pem")]);
        assert_eq!(location(&named).as_deref(), Some("/ca.pem"));
        let pasted = config(&[("ssl.ca.pem", "-----BEGIN CERTIFICATE-----")]);
        assert_eq!(location(&pasted), None);
    }

    #[test]
    fn a_property_that_cannot_be_used_is_named_with_what_to_do() {
        for (properties, names, says) in [
            (
                &[("bootstrap.servers", "b:1")][..],
                "-X bootstrap.servers: ",
                "--kafka",
            ),
            (&[("acks", "1")], "-X acks: ", "leave it out"),
            (
                &[("security.protocol", "SASL_PLAINTEXT")],
                "-X security.protocol: ",
                "sasl.mechanism",
            ),
            (
                &[("sasl.mechanism", "GSSAPI")],
                "-X sasl.mechanism: ",
                "Kerberos",
            ),
        ] {
            let sentence = objection(properties);
            assert!(sentence.starts_with(names), "{sentence}");
            assert!(sentence.contains(says), "{sentence}");
        }
        if builtin::security_features().iter().any(|it| it == "ssl") {
            let sentence = objection(&[("ssl.ca.location", "/no/such/ca.pem")]);
            assert!(
                sentence.starts_with("-X ssl.ca.location: /no/such/ca.pem: No such file"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn a_protected_property_of_a_file_names_the_file() {
        let file = PropertiesFile {
            path: "/etc/kafka.properties".into(),
            properties: vec![("isolation.level".to_owned(), "hunter2".to_owned())],
        };
        let options = KafkaOptions {
            file: Some(file),
            ..KafkaOptions::default()
        };
        let refused = Config::new(&options).check().expect_err("it is protected");
        let sentence = refused.to_string();
        assert!(
            sentence.starts_with("--kafka-config /etc/kafka.properties: isolation.level: "),
            "{sentence}"
        );
        assert!(!sentence.contains("hunter2"), "{sentence}");
    }

    #[test]
    fn no_sentence_repeats_a_secret() {
        let config = config(&[("sasl.password", "hunter2"), ("client.id", "ada")]);
        // The first is librdkafka's own word.
        let text = "hunter2: invalid value \"hunter2\" for \"client.id\" of ada";
        let error = KafkaError::ClientCreation(text.to_owned());
        let sentence = config.refusal(&error).to_string();
        assert_eq!(
            sentence,
            "-X client.id: hunter2: invalid value [redacted] for \"client.id\" of ada"
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
