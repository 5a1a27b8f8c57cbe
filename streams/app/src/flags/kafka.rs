//! The flags of a Kafka cluster.

use std::{
    convert::Infallible,
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use emostream_log::{
    Log,
    kafka::{
        Fetching, KafkaLog, KafkaOptions, PropertiesFile, Redacted, is_secret, security_features,
    },
};

use super::{kafka_config, parse::brokers};
use crate::process::Failure;

/// Time for which a service retries a request that the brokers deny because a permission is missing. The retries are
/// necessary because some seconds pass until all brokers know a new ACL.
pub const DENIAL_RETRY_TIME: Duration = Duration::from_secs(30);

/// The flags of commands that cannot run without a Kafka cluster.
#[derive(Debug, Clone, Args)]
pub struct KafkaFlags {
    /// Addresses of Kafka's brokers
    #[arg(long, value_name = "HOST:PORT,…", value_parser = brokers)]
    #[arg(required_unless_present = "kafka_config")]
    kafka: Option<String>,
    #[command(flatten)]
    properties: PropertyFlags,
}

impl KafkaFlags {
    /// Returns the flags that name this log, for a command that the user can type.
    pub fn as_typed(&self) -> String {
        self.properties.as_typed(self.kafka.as_deref())
    }

    /// Connects a service to Kafka. An invalid property is reported before any connection is opened.
    pub fn connect(self) -> Result<Arc<dyn Log>, Failure> {
        let properties = self.properties;
        properties.connect(self.kafka, Fetching::AtOnce, DENIAL_RETRY_TIME)
    }

    /// Connects a command that runs once to Kafka. A missing permission is reported at the first denial, without
    /// retries.
    pub fn connect_once(self) -> Result<Arc<dyn Log>, Failure> {
        let properties = self.properties;
        properties.connect(self.kafka, Fetching::AtOnce, Duration::ZERO)
    }
}

/// The flags of a Kafka cluster. They are required except with `--describe`.
#[derive(Debug, Clone, Args)]
pub struct DescribedKafkaFlags {
    /// Addresses of Kafka's brokers
    #[arg(long, value_name = "HOST:PORT,…", value_parser = brokers)]
    #[arg(required_unless_present_any = ["describe", "kafka_config"])]
    kafka: Option<String>,
    #[command(flatten)]
    properties: PropertyFlags,
}

impl DescribedKafkaFlags {
    /// Connects to Kafka. An invalid property is reported before any connection is opened.
    pub fn connect(self) -> Result<Arc<dyn Log>, Failure> {
        let properties = self.properties;
        properties.connect(self.kafka, Fetching::InBulk, DENIAL_RETRY_TIME)
    }
}

/// The flags for properties of librdkafka.
#[derive(Debug, Clone, Args)]
pub struct PropertyFlags {
    #[arg(short = 'X', long = "kafka-property", value_name = "KEY=VALUE", help = property_help())]
    #[arg(value_parser = PropertyFlag::parse, value_delimiter = '\n')]
    properties: Vec<PropertyFlag>,
    /// A file of librdkafka properties: lines of KEY=VALUE, and comments that begin with #. -X overrides its
    /// properties, and --kafka overrides its bootstrap.servers
    #[arg(long, value_name = "FILE", value_parser = kafka_config::read)]
    kafka_config: Option<PropertiesFile>,
}

/// Returns the help of `-X`, which lists the security features that librdkafka was built with.
fn property_help() -> String {
    let features = match security_features() {
        features if features.is_empty() => "no TLS and no SASL".to_owned(),
        features => features.join(", "),
    };
    format!(
        "A librdkafka property; repeat the flag for several (in the environment: one per line). TLS and SASL of this build: {features}"
    )
}

/// The value of one `-X`. A text that is not KEY=VALUE is parsed as `None`, and refused later. If clap refused it, its
/// error message would contain the text, which may be a secret.
#[derive(Clone)]
struct PropertyFlag(Option<(String, String)>);

impl PropertyFlag {
    fn parse(text: &str) -> Result<Self, Infallible> {
        let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
        Ok(Self(
            parts.map(|(key, value)| (key.to_owned(), value.to_owned())),
        ))
    }
}

impl fmt::Debug for PropertyFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Redacted(self.0.as_slice()).fmt(f)
    }
}

impl PropertyFlags {
    /// Returns the brokers that `--kafka` names (`named`). Without this flag, returns the brokers that the file of
    /// `--kafka-config` names.
    pub fn brokers(&self, named: Option<String>) -> Option<String> {
        let in_file = self.kafka_config.as_ref().and_then(PropertiesFile::brokers);
        named.or_else(|| in_file.map(str::to_owned))
    }

    /// Whether the properties set a security protocol, so that connections to the brokers use TLS or a login.
    pub fn is_secured(&self) -> bool {
        let in_file = self.kafka_config.iter().flat_map(|file| &file.properties);
        let flags = self.properties.iter().filter_map(|flag| flag.0.as_ref());
        let named = in_file.chain(flags);
        let mut protocols = named.filter(|(name, _)| name == "security.protocol");
        let protocol = protocols.next_back();
        protocol.is_some_and(|(_, value)| !value.eq_ignore_ascii_case("plaintext"))
    }

    /// Returns the flags that name the cluster, as text. The program adds them to the commands that it prints.
    pub fn as_typed(&self, brokers: Option<&str>) -> String {
        let brokers = brokers.map(|brokers| format!("--kafka {brokers}"));
        let file = self.kafka_config.as_ref();
        let file = file.map(|file| format!("--kafka-config {}", file.path.display()));
        let named: Vec<String> = brokers.into_iter().chain(file).collect();
        named.join(" ")
    }

    /// Returns an error if one of these flags is set although the log is not a Kafka cluster.
    pub fn require_none(&self) -> Result<(), Failure> {
        match self {
            Self {
                kafka_config: Some(file),
                ..
            } => Err(missing_brokers(file)),
            Self { properties, .. } if !properties.is_empty() => {
                let why = "is for Kafka only; add --kafka, or remove it";
                Err(Failure::usage("-X", why))
            }
            _ => Ok(()),
        }
    }

    /// Connects to the brokers that [`PropertyFlags::brokers`] returns. A request that the brokers deny is retried for
    /// `denial_timeout`. An invalid property is reported before any connection is opened.
    pub fn connect(
        self,
        named: Option<String>,
        fetching: Fetching,
        denial_timeout: Duration,
    ) -> Result<Arc<dyn Log>, Failure> {
        let brokers = self
            .brokers(named)
            .ok_or_else(|| match &self.kafka_config {
                Some(file) => missing_brokers(file),
                None => Failure::usage("--kafka", "is missing"),
            })?;
        let properties: Option<Vec<_>> = self.properties.into_iter().map(|it| it.0).collect();
        let properties =
            properties.ok_or_else(|| Failure::usage("-X (--kafka-property)", "write KEY=VALUE"))?;
        for (name, _) in properties.iter().filter(|(name, _)| is_secret(name)) {
            warn_of_process_list(name);
        }
        Ok(Arc::new(KafkaLog::connect(KafkaOptions {
            brokers,
            properties,
            file: self.kafka_config,
            fetching,
            denial_timeout,
        })?))
    }
}

/// Returns the error for the case that `--kafka` is not set and the file of `--kafka-config` names no brokers.
fn missing_brokers(file: &PropertiesFile) -> Failure {
    let file = file.path.display();
    let why = format!("--kafka is not set, and {file} has no bootstrap.servers; set one of them");
    Failure::usage("--kafka-config", why)
}

/// Logs a warning if the arguments contain the secret property `property`: other users of the host can read the
/// arguments of a process, but not its environment.
fn warn_of_process_list(property: &str) {
    let mut arguments = std::env::args_os();
    if arguments.any(|it| it.to_string_lossy().contains(property)) {
        tracing::warn!(
            "-X {property}: other users of this host can read it in the list of processes; write it into a file, and set --kafka-config to that file"
        );
    }
}
