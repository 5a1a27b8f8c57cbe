//! The user's configuration of the cluster: its brokers, and librdkafka properties from flags and from a file.
//!
//! Invariant: `Debug` prints no value of a property that may be a secret.

use std::{fmt, path::PathBuf, time::Duration};

/// The cluster, and how to connect to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// librdkafka properties (`-X key=value`); they override EmoStream's own settings. Properties on which exactly-once
    /// processing depends are refused ([`LogError::Property`](crate::LogError::Property)).
    pub properties: Vec<(String, String)>,
    /// Properties of a file (`--kafka-config`); `properties` override them.
    pub file: Option<PropertiesFile>,
    /// Decides when a broker responds to a fetch.
    pub fetching: Fetching,
    /// Time for which a request that the brokers deny is repeated before [`LogError::Denied`](crate::LogError::Denied)
    /// is returned. With zero, the default, the error is returned at once. During this time a service that starts
    /// waits, and a running service continues.
    pub denial_timeout: Duration,
}

/// The properties of a file, and its name for messages.
#[derive(Clone, PartialEq, Eq)]
pub struct PropertiesFile {
    /// Path of the file.
    pub path: PathBuf,
    /// The properties in the order of the file. If a name occurs several times, the last one is used.
    pub properties: Vec<(String, String)>,
}

/// The time at which a broker responds to a fetch of a reader that has read all records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fetching {
    /// As soon as there is a record: for topics with few records, which readers need without a delay.
    #[default]
    AtOnce,
    /// When 64 KiB are available, and after at most 15 ms: for thousands of records per second. Each response wakes
    /// three threads, so fewer responses need much less CPU time.
    InBulk,
}

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("properties", &Redacted(&self.properties))
            .field("file", &self.file)
            .field("fetching", &self.fetching)
            .field("denial_timeout", &self.denial_timeout)
            .finish()
    }
}

impl fmt::Debug for PropertiesFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PropertiesFile")
            .field("path", &self.path)
            .field("properties", &Redacted(&self.properties))
            .finish()
    }
}

/// Wraps properties, so that `Debug` prints no value that may be a secret.
pub struct Redacted<'a>(pub &'a [(String, String)]);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self
            .0
            .iter()
            .map(|(name, value)| (name, shown(name, value)));
        f.debug_map().entries(shown).finish()
    }
}

/// Source of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Flag,
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => f.write_str("-X"),
            Origin::File(path) => write!(f, "--kafka-config {}:", path.display()),
        }
    }
}

/// A property that is used.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) origin: Origin,
    pub(super) name: String,
    pub(super) value: String,
}

impl Property {
    /// Returns librdkafka's name of the property; the user may have written an alias.
    pub(super) fn canonical(&self) -> &str {
        canonical(&self.name)
    }

    /// Returns whether the value may be a secret, which no message may contain.
    pub(super) fn is_secret(&self) -> bool {
        is_secret(&self.name)
    }
}

impl fmt::Debug for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Property {
            origin,
            name,
            value,
        } = self;
        write!(f, "{origin} {name}={}", shown(name, value))
    }
}

impl KafkaOptions {
    /// Returns each property once: a flag overrides the file, and if flags or the file set a property several times,
    /// the last one is used. The brokers that the file names are not included, since they are in `brokers`.
    pub(super) fn effective(&self) -> Vec<Property> {
        let mut effective: Vec<Property> = Vec::new();
        let file = self.file.iter().flat_map(|file| {
            let named = file.properties.iter().filter(|(name, _)| !is_brokers(name));
            named.map(|property| (Origin::File(file.path.clone()), property))
        });
        let flags = self.properties.iter().map(|it| (Origin::Flag, it));
        for (origin, (name, value)) in file.chain(flags) {
            effective.retain(|known| known.canonical() != canonical(name));
            effective.push(Property {
                origin,
                name: name.clone(),
                value: value.clone(),
            });
        }
        effective
    }
}

impl PropertiesFile {
    /// Returns the brokers that the file names.
    pub fn brokers(&self) -> Option<&str> {
        let mut found = self.properties.iter().filter(|(name, _)| is_brokers(name));
        found.next_back().map(|(_, value)| value.as_str())
    }
}

/// Returns whether the property names the brokers.
pub(super) fn is_brokers(name: &str) -> bool {
    canonical(name) == "bootstrap.servers"
}

/// Returns librdkafka's name of a property that may be given by an alias. Properties are set only by this name: if both
/// names were set, librdkafka would apply the one that comes last in a hash map.
fn canonical(name: &str) -> &str {
    match name {
        "sasl.mechanism" => "sasl.mechanisms",
        "metadata.broker.list" => "bootstrap.servers",
        "compression.type" => "compression.codec",
        "queue.buffering.max.ms" => "linger.ms",
        "max.partition.fetch.bytes" => "fetch.message.max.bytes",
        "max.in.flight" => "max.in.flight.requests.per.connection",
        "sasl.oauthbearer.client.credentials.client.id" => "sasl.oauthbearer.client.id",
        "sasl.oauthbearer.client.credentials.client.secret" => "sasl.oauthbearer.client.secret",
        name => name,
    }
}

/// Words in the names of properties whose values are secret.
const SECRET_WORDS: [&str; 8] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "jaas",
    "pem",
    "key",
    // The value describes an unsecured token (`principal=… scope=…`), which librdkafka treats as sensitive, too.
    "oauthbearer.config",
];

/// Returns whether the value may be a secret: by the words in the name, unless the property names a file or a URL.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let is_place = [".location", ".url", ".file"]
        .iter()
        .any(|end| name.ends_with(end));
    !is_place && SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Returns the value for `Debug`, without a secret.
fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    match is_secret(name) {
        true => "[redacted]",
        false => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(named: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        named.iter().map(owned).collect()
    }

    #[test]
    fn debug_prints_names_and_no_secret() {
        let options = KafkaOptions {
            brokers: "b:9092".to_owned(),
            properties: properties(&[
                ("sasl.username", "ada"),
                ("sasl.password", "hunter2"),
                ("ssl.key.pem", "hunter2"),
                ("ssl.key.location", "/etc/key.pem"),
            ]),
            file: Some(PropertiesFile {
                path: "kafka.properties".into(),
                properties: properties(&[
                    ("sasl.oauthbearer.client.secret", "hunter2"),
                    ("ssl.keystore.password", "hunter2"),
                    ("sasl.jaas.config", "hunter2"),
                ]),
            }),
            fetching: Fetching::AtOnce,
            denial_timeout: Duration::ZERO,
        };
        for text in [format!("{options:?}"), format!("{:?}", options.effective())] {
            assert!(!text.contains("hunter2"), "{text}");
            for shown in ["ada", "/etc/key.pem", "ssl.keystore.password"] {
                assert!(text.contains(shown), "{text}");
            }
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_under_either_name() {
        let options = KafkaOptions {
            properties: properties(&[("sasl.mechanisms", "PLAIN"), ("linger.ms", "1")]),
            file: Some(PropertiesFile {
                path: "f".into(),
                properties: properties(&[
                    ("bootstrap.servers", "b:9092"),
                    ("sasl.mechanism", "SCRAM-SHA-256"),
                    ("client.rack", "a"),
                    ("client.rack", "b"),
                ]),
            }),
            ..KafkaOptions::default()
        };
        let effective: Vec<String> = options
            .effective()
            .iter()
            .map(|it| format!("{it:?}"))
            .collect();
        assert_eq!(
            effective,
            [
                "--kafka-config f: client.rack=b",
                "-X sasl.mechanisms=PLAIN",
                "-X linger.ms=1"
            ]
        );
        let brokers = options.file.as_ref().and_then(PropertiesFile::brokers);
        assert_eq!(brokers, Some("b:9092"));
    }
}
