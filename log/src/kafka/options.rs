//! What the user configures about the cluster: its brokers, and librdkafka properties from flags and from a file.
//!
//! Invariant: no `Debug` here prints the value of a property that may be a secret.

use std::{fmt, path::PathBuf, time::Duration};

/// Where Kafka is, and how to connect to it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// librdkafka properties (`-X key=value`); they win over EmoStream's own settings. Those that exactly-once
    /// processing rests on are refused ([`LogError::Property`](crate::LogError::Property)).
    pub properties: Vec<(String, String)>,
    /// Properties of a file (`--kafka-config`); `properties` win over them.
    pub file: Option<PropertiesFile>,
    /// When readers are answered.
    pub fetching: Fetching,
    /// How long a request that the brokers deny is repeated until [`LogError::Denied`](crate::LogError::Denied) is
    /// reported; zero, the default, reports it at once. Meanwhile a start waits, and a service that runs continues.
    pub denial_patience: Duration,
}

/// The properties of a file, and its name for messages.
#[derive(Clone, PartialEq, Eq)]
pub struct PropertiesFile {
    /// The file that they were read from.
    pub path: PathBuf,
    /// In the file's order; the last of several with one name is used.
    pub properties: Vec<(String, String)>,
}

/// When a broker answers a reader that has read all there was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fetching {
    /// As soon as there is a record: for few records, each of which is waited for.
    #[default]
    AtOnce,
    /// When there are 64 KiB, and after 15 ms at the latest: for thousands of records a second. Each answer
    /// wakes three threads; at 20,000 records a second to be answered at once costs a quarter of a core, this
    /// a twentieth.
    InBulk,
}

impl fmt::Debug for KafkaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("properties", &Redacted(&self.properties))
            .field("file", &self.file)
            .field("fetching", &self.fetching)
            .field("denial_patience", &self.denial_patience)
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

/// `Debug` of properties without the values that may be secrets.
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

/// Where a property comes from.
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
    /// The name that librdkafka uses for it; the user may have written an alias.
    pub(super) fn canonical(&self) -> &str {
        canonical(&self.name)
    }

    /// Whether no message may repeat its value.
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
    /// Every property once: a flag wins over the file, and of several in one place the last. The brokers are
    /// not among those of the file: they are in `brokers`.
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
    /// The brokers that the file names.
    pub fn brokers(&self) -> Option<&str> {
        let mut found = self.properties.iter().filter(|(name, _)| is_brokers(name));
        found.next_back().map(|(_, value)| value.as_str())
    }
}

/// Whether the property names the brokers.
pub(super) fn is_brokers(name: &str) -> bool {
    canonical(name) == "bootstrap.servers"
}

/// librdkafka applies an alias like the property that it stands for; of two names for one property it would
/// apply whichever comes last in a hash map.
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
    // `principal=… scope=…` of an unsecured token, which librdkafka treats as sensitive too.
    "oauthbearer.config",
];

/// Whether the value may be a secret: judged by the words in the name, unless the property names a file or a URL.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    let is_place = [".location", ".url", ".file"]
        .iter()
        .any(|end| name.ends_with(end));
    !is_place && SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A value as `Debug` may print it.
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
            denial_patience: Duration::ZERO,
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
