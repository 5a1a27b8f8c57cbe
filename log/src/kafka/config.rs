//! The settings of librdkafka. EmoStream has its own settings, each with a reason. The user's properties override them,
//! except for those that are [`protected`].

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

/// Minimum age of a client that has lost all brokers before it is replaced.
pub(super) const REPLACE_INTERVAL: Duration = Duration::from_secs(10);

/// Timeout after which a request to a broker is sent again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);

/// librdkafka's default for the maximum bytes of a batch.
const LARGEST_BATCH: u64 = 1_000_000;

/// Interval of the statistics that show whether a client has a broker. Only clients that are always polled have them:
/// without polling, statistics would accumulate.
const STATISTICS_MS: &str = "2000";

/// Properties that name a file. EmoStream checks that the file exists: librdkafka would report a missing file only when
/// it creates a client, and only by OpenSSL's message.
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

/// The value of `ssl.ca.location` with which librdkafka searches the directories of Linux distributions for the
/// system's certificates.
pub(super) const PROBE: &str = "probe";

/// Creates the settings of all clients.
#[derive(Debug, Clone)]
pub(super) struct Config {
    brokers: String,
    fetching: Fetching,
    /// The user's properties, without duplicates.
    properties: Arc<[Property]>,
    /// The features of librdkafka.
    features: Arc<[String]>,
    denials: Denials,
    /// Whether transactors that are opened later send each record alone, not in batches.
    singly: Arc<AtomicBool>,
    /// The source of tokens; `None` before the first token was requested, and for clients without tokens.
    tokens: Option<Arc<Tokens>>,
}

impl Config {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        Self {
            brokers: options.brokers.clone(),
            fetching: options.fetching,
            properties: options.effective().into(),
            features: builtin::security_features().into(),
            denials: Denials::new(options.denial_timeout),
            singly: Arc::default(),
            tokens: None,
        }
    }

    /// Returns the configuration of readers that stop at the current end of a topic. A reader notices the end of a
    /// partition only when a fetch returns nothing. With `fetch.min.bytes` 1 such a fetch takes half a second, so scans
    /// use [`Fetching::InBulk`].
    pub(super) fn for_scans(&self) -> Config {
        Config {
            fetching: Fetching::InBulk,
            ..self.clone()
        }
    }

    /// Returns the permissions that the brokers deny to this log's clients.
    pub(super) fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Returns whether new transactors send each record alone, since a topic did not accept a batch.
    pub(super) fn sends_singly(&self) -> bool {
        self.singly.load(Ordering::Relaxed)
    }

    /// Transactors that are opened after this call send each record alone, not in batches.
    pub(super) fn send_singly(&self) {
        self.singly.store(true, Ordering::Relaxed);
    }

    /// Requests the first token for all clients, if the user's properties configure OAUTHBEARER.
    pub(super) fn request_token(&mut self) -> Result<(), LogError> {
        if let Some(oidc) = self.oidc()? {
            let endpoint = Endpoint::new(oidc).map_err(|objection| self.blame(objection))?;
            self.tokens = Some(Arc::new(Tokens::start(endpoint, &self.brokers)?));
        }
        Ok(())
    }

    /// Returns the source of tokens, if the clients use one.
    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_deref()
    }

    /// Returns the context of a client.
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

    /// Checks the user's properties before a client is created. Returns an error for a property that is protected, that
    /// this build cannot use, or that librdkafka refuses.
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

    /// Returns why a property cannot be used; `None` if only librdkafka may refuse it.
    fn objection(&self, property: &Property) -> Option<String> {
        let (name, value) = (property.canonical(), property.value.as_str());
        if let Some(reason) = protected::reason(name, value) {
            return Some(format!("cannot be set: {reason}; remove it"));
        }
        if options::is_brokers(name) {
            return Some("cannot be set by -X; set the brokers with --kafka".to_owned());
        }
        if let Some(why) = builtin::missing(&self.features, name, value) {
            return Some(why);
        }
        if name == "sasl.mechanisms" && !MECHANISMS.iter().any(|it| it.eq_ignore_ascii_case(value))
        {
            return Some(format!("{value} is not one of {}", MECHANISMS.join(", ")));
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

    /// Returns the value of a property of the user, by librdkafka's name.
    pub(super) fn value(&self, canonical: &str) -> Option<&str> {
        let found = self
            .properties
            .iter()
            .find(|property| property.canonical() == canonical);
        found.map(|property| property.value.as_str())
    }

    /// Returns the settings of a client for metadata and offsets.
    pub(super) fn client(&self) -> ClientConfig {
        self.settle(self.common())
    }

    /// Returns the settings of [`Config::client`], but end offsets include open transactions.
    pub(super) fn uncommitted(&self) -> ClientConfig {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        config
    }

    /// Returns the settings of a client that commits offsets of `group`.
    pub(super) fn group_member(&self, group: &str) -> ClientConfig {
        let mut config = self.common();
        config.set("enable.auto.commit", "false");
        let mut config = self.settle(config);
        // The group is set after the user's properties: a `group.id` of the user is for the readers, which commit no
        // offsets.
        config.set("group.id", group);
        config
    }

    /// Returns the settings of a client that reads committed records from offsets that EmoStream stores.
    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.common();
        config
            // librdkafka needs a group id to assign partitions. No consumer joins the group, and no offset is
            // committed.
            .set("group.id", "emostream-readers")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            // A reader has to fail if its offset has expired, not continue at another offset.
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("statistics.interval.ms", STATISTICS_MS)
            // Without this check, a corrupt record would be counted. CRC32C needs almost no CPU time.
            .set("check.crcs", "true")
            // The limit of a partition's queue. In memory, small records need several times their size. So the default
            // of 64 MB would need much memory for a backlog, and more CPU time, since it exceeds the CPU's caches.
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", "4096")
            // Pause before the next fetch for a queue that was full; the default is a second.
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

    /// Returns the settings of a producer. Its records are acknowledged or fail within `timeout`, and its batches have
    /// at most `bytes`, if that is set.
    pub(super) fn producer(&self, timeout: Duration, bytes: Option<u64>) -> ClientConfig {
        let mut config = self.writing(timeout);
        if let Some(bytes) = bytes {
            // A broker refuses all records of a batch that is larger than the topic accepts.
            config.set("batch.size", bytes.clamp(1, LARGEST_BATCH).to_string());
        }
        config
            .set("statistics.interval.ms", STATISTICS_MS)
            // A record may have a long timeout, but a single request may not: after its timeout, it is repeated on
            // another connection.
            .set("request.timeout.ms", millis(timeout.min(REQUEST_TIMEOUT)));
        self.settle(config)
    }

    /// Returns the settings of a producer of transactions that Kafka aborts after `timeout`.
    pub(super) fn transactional(&self, id: &str, timeout: Duration) -> ClientConfig {
        let mut config = self.writing(timeout);
        config
            .set("transactional.id", id)
            // librdkafka requires that the timeout of transactions is not shorter than message.timeout.ms.
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
            // With these pauses a client reconnects to a recovered broker within a second; by default it may take ten.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // The cluster need not collect metrics of the client, since EmoStream exports its own at /metrics.
            .set("enable.metrics.push", "false");
        let names_ca = |it: &Property| it.canonical().starts_with("ssl.ca.");
        if self.features.iter().any(|it| it == "ssl") && !self.properties.iter().any(names_ca) {
            // Linux distributions have different directories for the system's certificates; a statically linked OpenSSL
            // would only search the one that it was built with.
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
            // The partitioner of Kafka's Java client, so that a key has the same partition for all producers.
            .set("partitioner", "murmur2_random")
            // Maximum time until an added partition is used; the default is five minutes.
            .set("topic.metadata.refresh.interval.ms", "30000")
            // Time for which a producer waits for an unknown topic. Topics exist before they are written to, so it is
            // short; the default of 30 s exceeds the timeout of records.
            .set("topic.metadata.propagation.max.ms", "2000");
        config
    }

    fn settle(&self, mut config: ClientConfig) -> ClientConfig {
        let with_tokens = matches!(self.oidc(), Ok(Some(_)));
        for property in &*self.properties {
            if !(with_tokens && Oidc::is_own(property.canonical())) {
                config.set(property.canonical(), &property.value);
            }
        }
        let verbose = tracing::enabled!(target: "librdkafka", tracing::Level::DEBUG);
        config.set_log_level(if verbose {
            RDKafkaLogLevel::Debug
        } else {
            // Log lines of this level are needed: only they report that a broker closed a connection, and which topic a
            // transaction may not write to.
            RDKafkaLogLevel::Info
        });
        config
    }

    /// Creates a client. librdkafka reports settings that contradict each other only when it creates a client.
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

    /// Converts librdkafka's error for a client that cannot be created. The result names the user's property that
    /// caused the error, if there is one.
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

    /// Removes secrets from a text of librdkafka, which repeats values in quotes. The same word without quotes is
    /// librdkafka's own. If it was replaced, too, the text would reveal that this word is the secret.
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

/// Converts a partition to librdkafka's type.
pub(super) fn signed(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

/// Converts an offset of librdkafka's that is not negative.
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
        for (properties, names, expected) in [
            (
                &[("bootstrap.servers", "b:1")][..],
                "-X bootstrap.servers: ",
                "--kafka",
            ),
            (&[("acks", "1")], "-X acks: ", "remove it"),
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
            assert!(sentence.contains(expected), "{sentence}");
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
        // The first `hunter2` is librdkafka's own word, so it is not replaced.
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
