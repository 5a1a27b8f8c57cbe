//! Groups of flags that several commands share, and the conversion of their values to configurations.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_app::{
    flags::{
        AdminFlags, DENIAL_RETRY_TIME, PropertyFlags,
        parse::{address, brokers, duration},
        text_file,
    },
    process::Failure,
};
use emostream_broadcast::RelayToken;
use emostream_http::{
    AllowOrigin, Authenticator, JwksUrl, Limits, RequiredClaims, Tls, TlsError, TlsFile, TlsFiles,
};
use emostream_log::{EventClock, Log, embedded::EmbeddedLog, kafka::Fetching};
use emostream_model::{AliasError, EmojiNames, Topics};

use crate::{cli::parse::Rate, fd_limit, log_socket};

/// The flag that decides the names of the topics.
#[derive(Debug, Clone, Args)]
pub(crate) struct TopicFlags {
    /// Prefix of the names of all topics
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

/// Name of the properties file in the commands of Kafka's tools that the program prints. The file has the format of
/// Kafka's Java clients.
pub const TOOLS_FILE: &str = "ADMIN.properties";

/// The flags that name either a Kafka cluster or the directory of an embedded log.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreFlags {
    /// Addresses of Kafka's brokers, which are used instead of the embedded log
    #[arg(long, value_name = "HOST:PORT,…", value_parser = brokers)]
    kafka: Option<String>,
    #[command(flatten)]
    properties: PropertyFlags,
    /// Directory of the embedded log
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

    /// Returns the addresses of the Kafka brokers; `None` for an embedded log.
    pub(crate) fn brokers(&self) -> Option<String> {
        self.properties.brokers(self.kafka.clone())
    }

    /// Returns the brokers, as an argument for Kafka's own tools (`kafka-topics.sh` and others). If the brokers need
    /// TLS or a login, the argument also names a properties file.
    pub(crate) fn brokers_of_tools(&self) -> Option<String> {
        let brokers = self.brokers()?;
        Some(match self.properties.is_secured() {
            true => format!("{brokers} --command-config {TOOLS_FILE}"),
            false => brokers,
        })
    }

    /// Returns the flags that name this log, for a command that the user can type.
    pub(crate) fn as_typed(&self) -> String {
        match self.is_kafka() {
            true => self.properties.as_typed(self.kafka.as_deref()),
            false => format!("--data {}", self.data.display()),
        }
    }

    /// Opens the log for a service. An embedded log uses `clock`, and creates its directory if the directory is
    /// missing.
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
            true => self
                .properties
                .connect(self.kafka, Fetching::AtOnce, denial_timeout),
            false => Ok(Arc::new(EmbeddedLog::open_with_clock(&self.data, clock)?)),
        }
    }

    /// Opens an existing log for reading and writing. Returns an error if there is no log.
    pub(crate) fn open_existing(self) -> Result<Arc<dyn Log>, Failure> {
        self.check()?;
        if !self.is_kafka() {
            // Opens the log for reading first. This fails if there is no log. Opening a log for writing would create
            // one.
            drop(log_socket::open_for_reading(self.directory()?)?);
        }
        self.open_with(EventClock::host(), Duration::ZERO)
    }

    /// Opens the log for reading. Another process may write to the log at the same time.
    pub(crate) fn open_for_reading(self) -> Result<Arc<dyn Log>, Failure> {
        self.check()?;
        match self.is_kafka() {
            false => Ok(log_socket::open_for_reading(self.directory()?)?),
            true => self
                .properties
                .connect(self.kafka, Fetching::AtOnce, Duration::ZERO),
        }
    }

    fn directory(&self) -> Result<&Path, Failure> {
        match self.data.is_dir() {
            true => Ok(&self.data),
            false => {
                let dir = self.data.display();
                let why = format!(
                    "directory {dir} not found; set --data to the directory that `up` uses, or use --kafka"
                );
                Err(Failure::usage("--data", why))
            }
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.is_kafka() {
            return Ok(());
        }
        self.properties.require_none()
    }
}

/// The flag for further names of emojis.
#[derive(Debug, Clone, Args)]
pub(crate) struct EmojiFlags {
    /// A name that clients may send instead of an emoji, for example goal=⚽; repeat the flag for several
    #[arg(long, value_name = "NAME=EMOJI", value_delimiter = ',')]
    emoji_alias: Vec<String>,
}

impl EmojiFlags {
    /// Returns the default names of emojis, and the names that the flag adds.
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

/// The flags for the tokens that clients must send.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenFlags {
    /// Require tokens (JWT), and verify them with this file: an HS256 secret, a public key for EdDSA, ES256 or RS256 in
    /// PEM, or a key set (JWKS)
    #[arg(long, value_name = "FILE", conflicts_with = "jwks_url")]
    jwt_key: Option<PathBuf>,
    /// Require tokens (JWT), and verify them with the key set (JWKS) at this URL: the jwks_uri of an OpenID Connect
    /// provider
    #[arg(long, value_name = "URL")]
    jwks_url: Option<String>,
    /// Refuse tokens whose aud does not contain this audience; repeat the flag to accept several
    #[arg(long, value_name = "AUD", value_delimiter = ',')]
    jwt_audience: Vec<String>,
    /// Refuse tokens whose iss is not this issuer; repeat the flag to accept several
    #[arg(long, value_name = "ISS", value_delimiter = ',')]
    jwt_issuer: Vec<String>,
}

impl TokenFlags {
    /// Reads the keys. No error message contains the value of `--jwt-key` or `--jwks-url`: a user may have written the
    /// secret itself instead of the name of its file, and the URL may contain a password.
    pub(crate) fn authenticator(&self) -> Result<Authenticator, Failure> {
        let required = self.required_claims()?;
        if let Some(url) = &self.jwks_url {
            let url = url.parse::<JwksUrl>();
            let url = url.map_err(|why| Failure::usage("--jwks-url", why))?;
            return Authenticator::from_jwks_url(url, required).map_err(|_| {
                let why = "this system has no root certificates to verify the server with; set SSL_CERT_FILE to a file of root certificates (PEM)";
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

/// The flags of every command that serves HTTP.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServerFlags {
    #[command(flatten)]
    pub(crate) listen: ListenFlags,
    #[command(flatten)]
    pub(crate) admin: AdminFlags,
    /// Web origins whose pages may send requests: * for all, or https://a.example,https://b.example
    #[arg(long, value_name = "ORIGIN", default_value = "*", value_parser = origin)]
    pub(crate) allow_origin: AllowOrigin,
    #[command(flatten)]
    pub(crate) tokens: TokenFlags,
}

/// The flags for the address of a service and the limits of its connections.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListenFlags {
    /// Address to listen on: IP:PORT, HOST:PORT, or :PORT for all IPv4 addresses of this host; port 0 chooses a free
    /// port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    listen: SocketAddr,
    /// Maximum concurrent connections; further ones get 503. Each needs an open file: if the limit on open files
    /// (ulimit -n) is lower, fewer connections are served
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections)]
    #[arg(value_parser = Ranged::<u32>::new().range(1..=MOST_CONNECTIONS))]
    max_connections: u32,
    /// Maximum rate of new connections, for example 2000/s; further ones get 503. No limit by default
    #[arg(long, value_name = "RATE")]
    connection_rate: Option<Rate>,
    #[command(flatten)]
    tls: TlsFlags,
}

/// Maximum of `--max-connections`. It is the default of Linux for `fs.nr_open`, the greatest limit on open files that a
/// process can have.
const MOST_CONNECTIONS: u64 = 1 << 20;

impl ListenFlags {
    pub(crate) fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Returns the limits of the listener. Raises the process's limit on open files, so that the process can serve all
    /// these connections and `relays` relays. If the limit cannot be raised that far, the listener allows fewer
    /// connections.
    pub(crate) fn limits(&self, relays: u32) -> Limits {
        Limits {
            connections: fd_limit::raise(self.max_connections, relays),
            connection_rate: self.connection_rate.map(|rate| rate.per_second),
            ..Limits::default()
        }
    }

    /// Reads the certificate and its key, and returns the TLS configuration of all listeners; `None` without TLS.
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

/// The flags for the delivery of results to subscribers.
#[derive(Debug, Clone, Args)]
pub(crate) struct FanoutFlags {
    /// Number of threads that write to subscribers [default: number of cores]
    #[arg(long, value_name = "N", value_parser = shards)]
    pub(crate) shards: Option<NonZeroUsize>,
    /// Time over which the reconnections of subscribers are spread when the process shuts down
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
}

/// Maximum of `--shards`. More threads than cores do not increase the throughput.
const MOST_SHARDS: usize = 1024;

fn shards(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok();
    number
        .filter(|number: &NonZeroUsize| number.get() <= MOST_SHARDS)
        .ok_or_else(|| format!("write a number from 1 to {MOST_SHARDS}"))
}

/// The flags for the certificate of all listeners. Either both flags are set or none.
#[derive(Debug, Clone, Args)]
struct TlsFlags {
    /// Use TLS on every listener, also on --admin, with this certificate chain in PEM; a changed file is loaded without
    /// a restart
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// The flags for the address that relays connect to.
#[derive(Debug, Clone, Args)]
pub(crate) struct RelayListenFlags {
    /// Address that relays connect to; none by default. Port 0 chooses a free port
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub(crate) relay_listen: Option<SocketAddr>,
    /// Maximum number of connected relays
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = Ranged::<u32>::new().range(1..=100_000))]
    pub(crate) max_relays: u32,
    /// A file with the secret that relays must send. The publisher and all its relays have the same secret
    #[arg(long, value_name = "FILE")]
    relay_token_file: Option<PathBuf>,
}

impl RelayListenFlags {
    /// Reads the secret that a publisher and all its relays share. Without the flag, the secret is empty.
    pub(crate) fn token(&self) -> Result<RelayToken, Failure> {
        let Some(file) = &self.relay_token_file else {
            return Ok(RelayToken::default());
        };
        let secret = text_file::secret("--relay-token-file", file)?;
        Ok(RelayToken::new(&secret))
    }
}
