//! Groups of flags that several commands share, and the values that they configure.

use std::{
    convert::Infallible,
    fmt::{self, Display},
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_broadcast::RelayToken;
use emostream_http::{
    AllowOrigin, Authenticator, JwksUrl, Limits, RequiredClaims, Tls, TlsError, TlsFile, TlsFiles,
};
use emostream_log::{
    EventClock, Log,
    embedded::EmbeddedLog,
    kafka::{
        Fetching, KafkaLog, KafkaOptions, PropertiesFile, Redacted, is_secret, security_features,
    },
};
use emostream_model::{AliasError, EmojiNames, Topics};

use crate::{
    cli::kafka_config,
    cli::parse::{Rate, brokers, duration},
    cli::text_file,
    exit::Failure,
    fd_limit, log_socket,
};

/// Names of the topics.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopicFlags {
    /// Prefix of the topics' names
    #[arg(long, value_name = "PREFIX", default_value = "emostream", value_parser = topics)]
    topic_prefix: Topics,
}

impl TopicFlags {
    pub(crate) fn names(&self) -> Topics {
        self.topic_prefix.clone()
    }
}

fn topics(prefix: &str) -> Result<Topics, String> {
    Topics::with_prefix(prefix).map_err(|error| error.to_string())
}

/// How long a service retries a request that the brokers deny: a new ACL takes seconds to reach all of them.
const DENIAL_RETRY_TIME: Duration = Duration::from_secs(30);

/// A Kafka cluster that is required.
#[derive(Debug, Clone, Args)]
pub(crate) struct KafkaFlags {
    /// Kafka's brokers
    #[arg(long, value_name = "HOST:PORT,…", value_parser = brokers)]
    #[arg(required_unless_present = "kafka_config")]
    kafka: Option<String>,
    #[command(flatten)]
    properties: PropertyFlags,
}

impl KafkaFlags {
    /// The flags that name it again, for a command that is to be typed.
    pub(crate) fn as_typed(&self) -> String {
        self.properties.as_typed(self.kafka.as_deref())
    }

    /// Connects a service. An invalid property is reported before any connection is opened.
    pub(crate) fn connect(self) -> Result<Arc<dyn Log>, Failure> {
        connect(
            self.kafka,
            self.properties,
            Fetching::AtOnce,
            DENIAL_RETRY_TIME,
        )
    }

    /// Connects a command that runs once. A missing permission is reported immediately.
    pub(crate) fn connect_once(self) -> Result<Arc<dyn Log>, Failure> {
        connect(
            self.kafka,
            self.properties,
            Fetching::AtOnce,
            Duration::ZERO,
        )
    }
}

/// A Kafka cluster, or the directory of an embedded log.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreFlags {
    /// Kafka's brokers, instead of the embedded log
    #[arg(long, value_name = "HOST:PORT,…", value_parser = brokers)]
    kafka: Option<String>,
    #[command(flatten)]
    properties: PropertyFlags,
    /// The embedded log's directory
    #[arg(long, value_name = "DIR", default_value = "./emostream-data")]
    #[arg(conflicts_with_all = ["kafka", "kafka_config"])]
    data: PathBuf,
}

impl StoreFlags {
    /// Whether the flags name a Kafka cluster.
    pub(crate) fn is_kafka(&self) -> bool {
        self.brokers().is_some()
    }

    /// Returns the directory of the embedded log; `None` for a Kafka cluster.
    pub(crate) fn embedded_dir(&self) -> Option<PathBuf> {
        (!self.is_kafka()).then(|| self.data.clone())
    }

    /// Returns the cluster's brokers.
    pub(crate) fn brokers(&self) -> Option<String> {
        self.properties.brokers(self.kafka.clone())
    }

    /// Returns the brokers as an argument of Kafka's own tools, with a properties file if they need TLS or a login.
    pub(crate) fn brokers_of_tools(&self) -> Option<String> {
        let brokers = self.brokers()?;
        Some(match self.properties.is_secured() {
            true => format!("{brokers} --command-config {TOOLS_FILE}"),
            false => brokers,
        })
    }

    /// The flags that name it again, for a command that is to be typed.
    pub(crate) fn as_typed(&self) -> String {
        match self.is_kafka() {
            true => self.properties.as_typed(self.kafka.as_deref()),
            false => format!("--data {}", self.data.display()),
        }
    }

    /// Opens the log for a service. Creates the directory if it is missing. `clock` is for the embedded log.
    pub(crate) fn open(self, clock: EventClock) -> Result<Arc<dyn Log>, Failure> {
        self.open_with(clock, DENIAL_RETRY_TIME)
    }

    fn open_with(
        self,
        clock: EventClock,
        denial_timeout: Duration,
    ) -> Result<Arc<dyn Log>, Failure> {
        self.check()?;
        match self.is_kafka() {
            true => connect(
                self.kafka,
                self.properties,
                Fetching::AtOnce,
                denial_timeout,
            ),
            false => Ok(Arc::new(EmbeddedLog::open_with_clock(&self.data, clock)?)),
        }
    }

    /// Opens an existing log for reading and writing.
    pub(crate) fn open_existing(self) -> Result<Arc<dyn Log>, Failure> {
        self.check()?;
        if !self.is_kafka() {
            // An error if there is none: opening for writing would create it.
            drop(log_socket::open_for_reading(self.directory()?)?);
        }
        self.open_with(EventClock::host(), Duration::ZERO)
    }

    /// Opens the log for reading, also while another process writes to it.
    pub(crate) fn open_for_reading(self) -> Result<Arc<dyn Log>, Failure> {
        self.check()?;
        match self.is_kafka() {
            false => Ok(log_socket::open_for_reading(self.directory()?)?),
            true => connect(
                self.kafka,
                self.properties,
                Fetching::AtOnce,
                Duration::ZERO,
            ),
        }
    }

    fn directory(&self) -> Result<&Path, Failure> {
        match self.data.is_dir() {
            true => Ok(&self.data),
            false => {
                let dir = self.data.display();
                let why = format!(
                    "directory {dir} not found; name the one that `up` uses, or use --kafka"
                );
                Err(Failure::usage("--data", why))
            }
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.is_kafka() {
            return Ok(());
        }
        match &self.properties {
            PropertyFlags {
                kafka_config: Some(file),
                ..
            } => Err(missing_brokers(file)),
            PropertyFlags { properties, .. } if !properties.is_empty() => {
                let why = "is for Kafka only; add --kafka, or remove it";
                Err(Failure::usage("-X", why))
            }
            _ => Ok(()),
        }
    }
}

/// A Kafka cluster that is required unless the topology is only described.
#[derive(Debug, Clone, Args)]
pub(crate) struct DescribedKafkaFlags {
    /// Kafka's brokers
    #[arg(long, value_name = "HOST:PORT,…", value_parser = brokers)]
    #[arg(required_unless_present_any = ["describe", "kafka_config"])]
    kafka: Option<String>,
    #[command(flatten)]
    properties: PropertyFlags,
}

impl DescribedKafkaFlags {
    /// Connects. An invalid property is reported before any connection is opened.
    pub(crate) fn connect(self) -> Result<Arc<dyn Log>, Failure> {
        connect(
            self.kafka,
            self.properties,
            Fetching::InBulk,
            DENIAL_RETRY_TIME,
        )
    }
}

#[derive(Debug, Clone, Args)]
struct PropertyFlags {
    #[arg(short = 'X', long = "kafka-property", value_name = "KEY=VALUE", help = property_help())]
    #[arg(value_parser = PropertyFlag::parse, value_delimiter = '\n')]
    properties: Vec<PropertyFlag>,
    /// A file of librdkafka properties: lines of KEY=VALUE, and comments that begin with #. -X overrides it, and --kafka
    /// overrides its bootstrap.servers
    #[arg(long, value_name = "FILE", value_parser = kafka_config::read)]
    kafka_config: Option<PropertiesFile>,
}

/// Returns the help of `-X`, with the security features that librdkafka was built with.
fn property_help() -> String {
    let features = match security_features() {
        features if features.is_empty() => "no TLS and no SASL".to_owned(),
        features => features.join(", "),
    };
    format!(
        "A librdkafka property; repeat the flag for several (in the environment: one per line). TLS and SASL of this build: {features}"
    )
}

/// One `-X`. Text that is not KEY=VALUE is `None` here and refused later: the error of clap would contain it, and it may
/// be a secret.
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
    /// Returns the brokers of `--kafka` or of the file.
    fn brokers(&self, named: Option<String>) -> Option<String> {
        let in_file = self.kafka_config.as_ref().and_then(PropertiesFile::brokers);
        named.or_else(|| in_file.map(str::to_owned))
    }

    /// Whether the brokers need TLS or a login.
    fn is_secured(&self) -> bool {
        let in_file = self.kafka_config.iter().flat_map(|file| &file.properties);
        let flags = self.properties.iter().filter_map(|flag| flag.0.as_ref());
        let named = in_file.chain(flags);
        let mut protocols = named.filter(|(name, _)| name == "security.protocol");
        let protocol = protocols.next_back();
        protocol.is_some_and(|(_, value)| !value.eq_ignore_ascii_case("plaintext"))
    }

    /// Returns the flags that name the cluster, for a command that is printed.
    fn as_typed(&self, brokers: Option<&str>) -> String {
        let brokers = brokers.map(|brokers| format!("--kafka {brokers}"));
        let file = self.kafka_config.as_ref();
        let file = file.map(|file| format!("--kafka-config {}", file.path.display()));
        let named: Vec<String> = brokers.into_iter().chain(file).collect();
        named.join(" ")
    }
}

/// Returns the error for a `--kafka-config` file without brokers and without `--kafka`.
fn missing_brokers(file: &PropertiesFile) -> Failure {
    let file = file.path.display();
    let why = format!("there is no --kafka, and {file} has no bootstrap.servers; set one of them");
    Failure::usage("--kafka-config", why)
}

/// Warns of a secret in the arguments: other users of the host can read them, but not the environment.
fn warn_of_process_list(property: &str) {
    let mut arguments = std::env::args_os();
    if arguments.any(|it| it.to_string_lossy().contains(property)) {
        tracing::warn!(
            "-X {property}: other users of this host can read it in the list of processes; write it into a file and name the file with --kafka-config"
        );
    }
}

/// The properties file, in the format of Kafka's Java clients, that printed commands of Kafka's tools name.
pub(crate) const TOOLS_FILE: &str = "ADMIN.properties";

fn connect(
    brokers: Option<String>,
    flags: PropertyFlags,
    fetching: Fetching,
    denial_timeout: Duration,
) -> Result<Arc<dyn Log>, Failure> {
    let brokers = flags
        .brokers(brokers)
        .ok_or_else(|| match &flags.kafka_config {
            Some(file) => missing_brokers(file),
            None => Failure::usage("--kafka", "is missing"),
        })?;
    let properties: Option<Vec<_>> = flags.properties.into_iter().map(|it| it.0).collect();
    let properties =
        properties.ok_or_else(|| Failure::usage("-X (--kafka-property)", "write KEY=VALUE"))?;
    for (name, _) in properties.iter().filter(|(name, _)| is_secret(name)) {
        warn_of_process_list(name);
    }
    Ok(Arc::new(KafkaLog::connect(KafkaOptions {
        brokers,
        properties,
        file: flags.kafka_config,
        fetching,
        denial_timeout,
    })?))
}

/// The admin address.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdminFlags {
    /// Address that serves /healthz, /readyz and /metrics, or off
    #[arg(long, value_name = "ADDR|off", default_value = "127.0.0.1:9464", value_parser = admin)]
    admin: Admin,
}

#[derive(Debug, Clone, Copy)]
struct Admin(Option<SocketAddr>);

impl AdminFlags {
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.admin.0
    }
}

fn admin(text: &str) -> Result<Admin, String> {
    match text {
        "off" => Ok(Admin(None)),
        _ => match address(text) {
            Ok(address) => Ok(Admin(Some(address))),
            Err(why) => Err(format!("{why}; or write off")),
        },
    }
}

/// Names that senders may use for emojis.
#[derive(Debug, Clone, Args)]
pub(crate) struct EmojiFlags {
    /// A name that senders may use for an emoji, for example goal=⚽; repeat the flag for several
    #[arg(long, value_name = "NAME=EMOJI", value_delimiter = ',')]
    emoji_alias: Vec<String>,
}

impl EmojiFlags {
    /// Returns the default names and the added ones.
    pub(crate) fn names(&self) -> Result<EmojiNames, Failure> {
        let mut names = EmojiNames::default();
        for alias in &self.emoji_alias {
            let added: Result<(), AliasError> = names.add_alias(alias);
            added.map_err(|error| Failure::usage("--emoji-alias", error))?;
        }
        Ok(names)
    }
}

fn origin(text: &str) -> Result<AllowOrigin, String> {
    text.parse()
        .map_err(|error: emostream_http::InvalidOrigin| error.to_string())
}

/// Tokens that requests must have.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenFlags {
    /// Requires tokens (JWT), and verifies them with this file: an HS256 secret, a public key for EdDSA, ES256 or RS256
    /// in PEM, or a key set (JWKS)
    #[arg(long, value_name = "FILE", conflicts_with = "jwks_url")]
    jwt_key: Option<PathBuf>,
    /// Requires tokens (JWT), and verifies them with the key set (JWKS) at this URL: the jwks_uri of an OpenID Connect
    /// provider
    #[arg(long, value_name = "URL")]
    jwks_url: Option<String>,
    /// Refuses tokens whose aud does not contain this audience; repeat the flag to accept several
    #[arg(long, value_name = "AUD", value_delimiter = ',')]
    jwt_audience: Vec<String>,
    /// Refuses tokens whose iss is not this issuer; repeat the flag to accept several
    #[arg(long, value_name = "ISS", value_delimiter = ',')]
    jwt_issuer: Vec<String>,
}

impl TokenFlags {
    /// Reads the keys. No error message contains the value of the flag: a user may have written the secret itself in
    /// place of the file's name, and the URL may contain a password.
    pub(crate) fn authenticator(&self) -> Result<Authenticator, Failure> {
        let required = self.required_claims()?;
        if let Some(url) = &self.jwks_url {
            let url = url.parse::<JwksUrl>();
            let url = url.map_err(|why| Failure::usage("--jwks-url", why))?;
            return Authenticator::from_jwks_url(url, required).map_err(|_| {
                let why = "this system has no root certificates to verify the server with; set SSL_CERT_FILE to a PEM file of them";
                Failure::usage("--jwks-url", why)
            });
        }
        let Some(file) = &self.jwt_key else {
            return Ok(Authenticator::default());
        };
        let authenticator = Authenticator::from_key_file(file, required);
        let authenticator = authenticator.map_err(|why| Failure::usage("--jwt-key", why))?;
        for warning in authenticator.warnings() {
            tracing::warn!("--jwt-key: {warning}");
        }
        Ok(authenticator)
    }

    fn required_claims(&self) -> Result<RequiredClaims, Failure> {
        let has_keys = self.jwt_key.is_some() || self.jwks_url.is_some();
        for (flag, values) in [
            ("--jwt-audience", &self.jwt_audience),
            ("--jwt-issuer", &self.jwt_issuer),
        ] {
            if values.iter().any(|value| value.trim().is_empty()) {
                return Err(Failure::usage(
                    flag,
                    "is empty; write the value that the claim must have",
                ));
            }
            if !has_keys && !values.is_empty() {
                let why = "needs --jwt-key or --jwks-url; add one of them";
                return Err(Failure::usage(flag, why));
            }
        }
        let trimmed = |values: &[String]| values.iter().map(|it| it.trim().to_owned()).collect();
        Ok(RequiredClaims {
            audiences: trimmed(&self.jwt_audience),
            issuers: trimmed(&self.jwt_issuer),
        })
    }
}

/// Flags of every role that serves HTTP.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerFlags {
    #[command(flatten)]
    pub(crate) listen: ListenFlags,
    #[command(flatten)]
    pub(crate) admin: AdminFlags,
    /// Web origins that browsers may use it from: * for all, or https://a.example,https://b.example
    #[arg(long, value_name = "ORIGIN", default_value = "*", value_parser = origin)]
    pub(crate) allow_origin: AllowOrigin,
    #[command(flatten)]
    pub(crate) tokens: TokenFlags,
}

/// The address of a service and its limits.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListenFlags {
    /// Address to listen on: IP:PORT, HOST:PORT, or :PORT for all IPv4 addresses of this host; port 0 chooses a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// Maximum concurrent connections; further ones get 503. Each needs an open file: with a lower limit on open files
    /// (ulimit -n) fewer are served
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    #[arg(value_parser = Ranged::<u32>::new().range(1..=MOST_CONNECTIONS))]
    max_connections: u32,
    /// Maximum rate of new connections, for example 2000/s; further ones get 503. No limit by default
    #[arg(long, value_name = "RATE")]
    connection_rate: Option<Rate>,
    #[command(flatten)]
    tls: TlsFlags,
}

/// The default of Linux for `fs.nr_open`, the greatest limit on open files that a process can have.
const MOST_CONNECTIONS: u64 = 1 << 20;

impl ListenFlags {
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Returns the limits of the listener. Raises the limit on open files to serve these connections beside `relays`
    /// relays, and allows fewer connections if that is not possible.
    pub(crate) fn limits(&self, relays: u32) -> Limits {
        Limits {
            connections: fd_limit::raise(self.max_connections, relays),
            connection_rate: self.connection_rate.map(|rate| rate.per_second),
            ..Limits::default()
        }
    }

    /// Reads the files and returns the TLS configuration of all listeners; `None` without TLS.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, Failure> {
        let (Some(certificate), Some(key)) = (&self.tls.tls_cert, &self.tls.tls_key) else {
            return Ok(None);
        };
        let tls = Tls::load(TlsFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        });
        let flag = |error: &TlsError| match error.file() {
            TlsFile::Certificate => "--tls-cert",
            TlsFile::Key => "--tls-key",
        };
        tls.map(Some)
            .map_err(|error| Failure::usage(flag(&error), error))
    }
}

/// Delivery of results to subscribers.
#[derive(Debug, Clone, Args)]
pub(crate) struct FanoutFlags {
    /// Threads that write to subscribers [default: number of cores]
    #[arg(long, value_name = "N", value_parser = shards)]
    pub(crate) shards: Option<NonZeroUsize>,
    /// At shutdown, the reconnections of subscribers are spread over this time
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
}

/// Maximum of `--shards`: more threads than cores do not make it faster.
const MOST_SHARDS: usize = 1024;

fn shards(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok();
    number
        .filter(|number: &NonZeroUsize| number.get() <= MOST_SHARDS)
        .ok_or_else(|| format!("write a number from 1 to {MOST_SHARDS}"))
}

/// The certificate of all listeners: both flags or none.
#[derive(Debug, Clone, Args)]
struct TlsFlags {
    /// Use TLS on every listener, also on --admin, with this certificate chain in PEM; a new file is loaded without a
    /// restart
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// The address for relays.
#[derive(Debug, Clone, Args)]
pub(crate) struct RelayListenFlags {
    /// Address for relays; none by default. Port 0 chooses a free port
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) relay_listen: Option<SocketAddr>,
    /// Maximum connected relays
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = Ranged::<u32>::new().range(1..=100_000))]
    pub(crate) max_relays: u32,
    /// A file with a secret that the publisher and all relays of a tree share
    #[arg(long, value_name = "FILE")]
    relay_token_file: Option<PathBuf>,
}

impl RelayListenFlags {
    /// Reads the secret that relays, and the upstreams of a relay, must know.
    pub(crate) fn token(&self) -> Result<RelayToken, Failure> {
        let Some(file) = &self.relay_token_file else {
            return Ok(RelayToken::default());
        };
        let secret = text_file::secret("--relay-token-file", file)?;
        Ok(RelayToken::new(&secret))
    }
}

/// Parses an address to listen on. For a host with several addresses it prefers IPv4, because every client tries that for
/// `localhost`.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let named = !host.contains([':', '[', ']', '/']);
        named.then_some((host, port.parse::<u16>().ok()?))
    });
    let (host, port) = match parts {
        Some(("", port)) => return Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        Some(parts) => parts,
        None => {
            return Err(
                "write IP:PORT or HOST:PORT, for example 127.0.0.1:8080, or :8080 for all \
                        IPv4 addresses of this host"
                    .to_owned(),
            );
        }
    };
    let unknown = |why: &dyn Display| format!("host {host} not found ({why})");
    let found = (host, port).to_socket_addrs();
    let found: Vec<SocketAddr> = found.map_err(|error| unknown(&error))?.collect();
    let first = found.iter().find(|it| it.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| unknown(&"it has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_ip_a_host_or_a_port_of_all_addresses() {
        for (text, expected) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("[::1]:0", "[::1]:0"),
            (":8080", "0.0.0.0:8080"),
            ("localhost:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(address(text), Ok(expected.parse().expect(expected)));
        }
        for text in [
            "",
            "8080",
            ":",
            ":http",
            "localhost",
            "::1:80",
            "http://h:80",
            "h:70000",
        ] {
            let why = address(text).expect_err(text);
            assert!(why.contains("HOST:PORT"), "{text}: {why}");
        }
        let why = address("no-such-host.invalid:80").expect_err("RFC 6761 reserves the name");
        assert!(why.contains("no-such-host.invalid"), "{why}");
    }
}
