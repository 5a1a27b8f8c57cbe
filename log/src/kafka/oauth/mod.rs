//! OAUTHBEARER with tokens of an OpenID Connect provider, without libcurl, which librdkafka would need.
//!
//! ```text
//!  token endpoint ◀─ POST ── one thread ─▶ the current token ─▶ generate_oauth_token of every client
//!                     (when ¾ of its time is over)          └─▶ administrative requests
//! ```
//!
//! librdkafka requests a token by an event. The thread that polls the client handles the event; for a reader, this is a
//! timely worker. So the callback never waits for the endpoint: it returns the current token.
//!
//! | client | thread that serves the event |
//! |---|---|
//! | the two consumers of `KafkaLog` | the thread `kafka-events`, every 100 ms |
//! | a reader | its owner, in every poll; the event calls its `wake` |
//! | an appender | its own thread |
//! | a transactor | `kafka-transactor`: librdkafka serves no event in `init_transactions` and `commit_transaction` |
//! | an `AdminClient` | no thread: rdkafka does not poll its events, so [`admin`] sends its requests |
//!
//! Invariant: no message and no `Debug` contains a token or the client's secret.

pub(super) mod admin;
mod endpoint;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rdkafka::client::OAuthToken;
use url::{Host, Url};

pub(super) use self::endpoint::Endpoint;
use super::{config::PROBE, context::is_due, options::Property};
use crate::LogError;

/// Maximum time until the thread reads the clock again, since the clock may be set while the thread waits.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Pause after the first failed request; each further failure doubles it.
const FIRST_PAUSE_MS: i64 = 1_000;
const MAX_PAUSE_MS: i64 = 10_000;
/// Minimum remaining lifetime of a token, in milliseconds. A token that expires sooner is not used, since it may have
/// expired when the broker reads it.
const MARGIN_MS: i64 = 1_000;

/// Properties that this module parses. They are not passed to librdkafka, which could use them only with libcurl. All
/// other properties are passed to librdkafka, which refuses unknown names.
const OWN_PROPERTIES: [&str; 11] = [
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.metadata.authentication.type",
    "https.ca.location",
    "https.ca.pem",
];
const NEEDS: &str = "OAUTHBEARER needs sasl.oauthbearer.method=oidc, sasl.oauthbearer.token.endpoint.url, sasl.oauthbearer.client.id and sasl.oauthbearer.client.secret";

/// The token endpoint, and the client that requests tokens there.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Oidc {
    endpoint: Url,
    client_id: String,
    client_secret: String,
    scope: Option<String>,
    ca: Ca,
}

/// The CA certificates that are trusted for the endpoint's certificate.
#[derive(Clone, PartialEq, Eq)]
enum Ca {
    System,
    File(String),
    Pem(String),
}

/// librdkafka's name of a property that cannot be used, and the reason.
pub(super) type Objection = (&'static str, String);

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Oidc({})", self.host())
    }
}

impl Oidc {
    /// Parses the properties for tokens; `None` if the SASL mechanism is not OAUTHBEARER.
    pub(super) fn of(properties: &[Property]) -> Result<Option<Self>, Objection> {
        let value = |name: &str| {
            let found = properties.iter().find(|it| it.canonical() == name);
            found.map(|it| it.value.as_str())
        };
        let mechanism = value("sasl.mechanisms").unwrap_or_default();
        if !mechanism.eq_ignore_ascii_case("OAUTHBEARER") {
            return match value("sasl.oauthbearer.method") {
                Some("oidc") => Err((
                    "sasl.oauthbearer.method",
                    "is used only with sasl.mechanism=OAUTHBEARER; set that mechanism, or remove this property".to_owned(),
                )),
                _ => Ok(None),
            };
        }
        let protocol = value("security.protocol").unwrap_or_default();
        if !protocol.to_lowercase().starts_with("sasl_") {
            // The message names only sasl_ssl, since others could read a token that is sent without TLS.
            let why = "needs security.protocol=sasl_ssl for OAUTHBEARER".to_owned();
            return Err(("sasl.mechanisms", why));
        }
        if !value("sasl.oauthbearer.method").is_some_and(|it| it.eq_ignore_ascii_case("oidc")) {
            return Err(("sasl.mechanisms", NEEDS.to_owned()));
        }
        for (name, why) in UNSUPPORTED_PROPERTIES {
            let given = value(name).is_some_and(|value| !is_harmless(name, value));
            if given {
                return Err((name, why.to_owned()));
            }
        }
        let needed = |name| {
            let given = value(name).filter(|value| !value.is_empty());
            given.ok_or(("sasl.mechanisms", NEEDS.to_owned()))
        };
        let url = needed("sasl.oauthbearer.token.endpoint.url")?;
        let endpoint = address(url).map_err(|why| ("sasl.oauthbearer.token.endpoint.url", why))?;
        Ok(Some(Self {
            endpoint,
            client_id: needed("sasl.oauthbearer.client.id")?.to_owned(),
            client_secret: needed("sasl.oauthbearer.client.secret")?.to_owned(),
            scope: value("sasl.oauthbearer.scope").map(str::to_owned),
            ca: match (value("https.ca.location"), value("https.ca.pem")) {
                (Some(PROBE), _) | (None, None) => Ca::System,
                (Some(file), _) => Ca::File(file.to_owned()),
                (None, Some(pem)) => Ca::Pem(pem.to_owned()),
            },
        }))
    }

    /// Returns whether this module uses the property, so that librdkafka does not get it.
    pub(super) fn is_own(canonical: &str) -> bool {
        OWN_PROPERTIES.contains(&canonical)
    }

    /// Returns the endpoint's host and port for messages. The path is left out, since it may contain a tenant's id.
    fn host(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        match self.endpoint.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

/// Properties that cannot be used with tokens, with the reasons.
const UNSUPPORTED_PROPERTIES: [(&str, &str); 9] = [
    (
        "sasl.oauthbearer.extensions",
        "cannot be sent: the client library has no SASL extensions; remove it",
    ),
    (
        "sasl.oauthbearer.config",
        "is for tokens without a signature, which brokers should not accept; remove it",
    ),
    (
        "enable.sasl.oauthbearer.unsecure.jwt",
        "is for tokens without a signature, which brokers should not accept; remove it",
    ),
    (
        "sasl.oauthbearer.grant.type",
        "can only be client_credentials; remove it",
    ),
    (
        "sasl.oauthbearer.metadata.authentication.type",
        "can only be none; remove it",
    ),
    (
        "enable.ssl.certificate.verification",
        "must stay true with OAUTHBEARER, or another host could receive the token; set ssl.ca.location instead",
    ),
    (
        "ssl.endpoint.identification.algorithm",
        "must stay https with OAUTHBEARER, or another host could receive the token; remove it",
    ),
    (
        "ssl.keystore.location",
        "cannot be used with OAUTHBEARER; set ssl.certificate.location and ssl.key.location (PEM)",
    ),
    (
        "ssl.key.password",
        "cannot be used with OAUTHBEARER; use a key without a password",
    ),
];

/// Returns whether an unsupported property has the value that is always used, so that the property changes nothing.
fn is_harmless(property: &str, value: &str) -> bool {
    match property {
        "enable.sasl.oauthbearer.unsecure.jwt" => value == "false",
        "sasl.oauthbearer.grant.type" => value == "client_credentials",
        "sasl.oauthbearer.metadata.authentication.type" => value == "none",
        "enable.ssl.certificate.verification" => value == "true",
        "ssl.endpoint.identification.algorithm" => value == "https",
        _ => value.is_empty(),
    }
}

/// Parses the endpoint's URL. The client's secret is sent there, so an endpoint without TLS must be on this host.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("contains a user name; set sasl.oauthbearer.client.id and .client.secret".to_owned())
        }
        "https" => Ok(url),
        "http" if is_here => Ok(url),
        "http" => Err(
            "begins with http://, and the client's secret would be sent without TLS; write https://"
                .to_owned(),
        ),
        _ => Err("must begin with https://".to_owned()),
    }
}

/// A token of the endpoint.
#[derive(Clone, PartialEq, Eq)]
struct Token {
    value: String,
    /// The principal that the token names. librdkafka only logs it.
    principal: String,
    /// Time at which the token expires, Unix milliseconds.
    expires_ms: i64,
}

/// The tokens of one log: a thread replaces the current one before it expires.
pub(super) struct Tokens {
    shared: Arc<Shared>,
    /// Dropping this sender ends the thread.
    _stop: Sender<()>,
}

struct Shared {
    endpoint: Endpoint,
    state: Mutex<State>,
}

struct State {
    token: Token,
    /// The reason why the last request for a newer token failed.
    failure: Option<String>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.shared.endpoint.host())
    }
}

impl Tokens {
    /// Requests the first token, and starts the thread that replaces it. `brokers` is for error messages.
    pub(super) fn start(endpoint: Endpoint, brokers: &str) -> Result<Self, LogError> {
        let failed = |why: String| LogError::Security {
            broker: brokers.to_owned(),
            detail: super::trouble::Trouble::NoToken(why).to_string(),
        };
        let obtained_ms = now_ms();
        let token = endpoint.request().map_err(failed)?;
        let mut schedule = Schedule::after(obtained_ms, &token);
        let state = State {
            token,
            failure: None,
        };
        let shared = Arc::new(Shared {
            endpoint,
            state: Mutex::new(state),
        });
        let (stop, stopped) = channel();
        let named = thread::Builder::new().name("kafka-token".to_owned());
        let spawned = named.spawn({
            let shared = shared.clone();
            move || shared.keep_fresh(&mut schedule, &stopped)
        });
        spawned.map_err(|error| LogError::Refused(format!("a thread cannot start: {error}")))?;
        Ok(Self {
            shared,
            _stop: stop,
        })
    }

    /// Returns the current token for librdkafka, or why there is none.
    pub(super) fn current(&self) -> Result<OAuthToken, String> {
        let state = self.shared.state();
        if state.token.expires_ms <= now_ms() + MARGIN_MS {
            return Err(state.failure.clone().unwrap_or_else(|| {
                format!(
                    "the token has expired, and the token endpoint {} has not responded yet",
                    self.shared.endpoint.host()
                )
            }));
        }
        Ok(OAuthToken {
            token: state.token.value.clone(),
            principal_name: state.token.principal.clone(),
            lifetime_ms: state.token.expires_ms,
        })
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_fresh(&self, schedule: &mut Schedule, stop: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(schedule.wait(now_ms())) {
            if !schedule.is_due(now_ms()) {
                continue;
            }
            let requested_ms = now_ms();
            match self.endpoint.request() {
                Ok(token) => {
                    *schedule = Schedule::after(requested_ms, &token);
                    let mut state = self.state();
                    state.token = token;
                    if state.failure.take().is_some() {
                        tracing::info!(
                            "the token endpoint {} responds again",
                            self.endpoint.host()
                        );
                    }
                }
                Err(why) => {
                    schedule.failed(now_ms());
                    if is_due(&why) {
                        tracing::warn!("no new token for Kafka: {why}");
                    }
                    self.state().failure = Some(why);
                }
            }
        }
    }
}

/// The time of the next token request.
#[derive(Debug, PartialEq, Eq)]
struct Schedule {
    /// Time at which the schedule was made. If the clock shows an earlier time, it was set back, and a request is due.
    set_ms: i64,
    next_ms: i64,
    pause_ms: i64,
}

impl Schedule {
    /// Returns the schedule after a token was obtained: the next request is due after three quarters of the token's
    /// lifetime, so that the thread has a new token when librdkafka requests one, after four fifths.
    fn after(obtained_ms: i64, token: &Token) -> Self {
        let lifetime_ms = token.expires_ms.saturating_sub(obtained_ms);
        Self {
            set_ms: obtained_ms,
            next_ms: obtained_ms + (lifetime_ms / 4 * 3).max(FIRST_PAUSE_MS),
            pause_ms: FIRST_PAUSE_MS,
        }
    }

    fn failed(&mut self, now_ms: i64) {
        self.set_ms = now_ms;
        self.next_ms = now_ms + self.pause_ms;
        self.pause_ms = (self.pause_ms * 2).min(MAX_PAUSE_MS);
    }

    fn is_due(&self, now_ms: i64) -> bool {
        now_ms >= self.next_ms || now_ms < self.set_ms
    }

    fn wait(&self, now_ms: i64) -> Duration {
        let left = u64::try_from(self.next_ms.saturating_sub(now_ms)).unwrap_or(0);
        Duration::from_millis(left).min(CLOCK_CHECK_INTERVAL)
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "this module compares the expiry of tokens with the clock"
)]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::kafka::options::Origin;

    fn properties(named: &[(&str, &str)]) -> Vec<Property> {
        let property = |(name, value): &(&str, &str)| Property {
            origin: Origin::Flag,
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        };
        named.iter().map(property).collect()
    }

    const GOOD: [(&str, &str); 6] = [
        ("sasl.mechanism", "OAUTHBEARER"),
        ("security.protocol", "SASL_SSL"),
        ("sasl.oauthbearer.method", "oidc"),
        (
            "sasl.oauthbearer.token.endpoint.url",
            "https://auth.example/tenant/token",
        ),
        ("sasl.oauthbearer.client.id", "emostream"),
        ("sasl.oauthbearer.client.secret", "hunter2"),
    ];

    #[test]
    fn tokens_come_from_the_endpoint_that_the_properties_name() {
        let oidc = Oidc::of(&properties(&GOOD)).unwrap().unwrap();
        assert_eq!(oidc.host(), "auth.example");
        assert_eq!(format!("{oidc:?}"), "Oidc(auth.example)");
        let scram = properties(&[("sasl.mechanism", "SCRAM-SHA-512")]);
        assert_eq!(Oidc::of(&scram), Ok(None));
        for (name, _) in GOOD {
            let is_ours = name.starts_with("sasl.oauthbearer.");
            assert_eq!(Oidc::is_own(name), is_ours, "{name}");
        }
    }

    #[test]
    fn properties_that_are_missing_or_contradict_tokens_are_named() {
        for (at, (missing, _)) in GOOD.iter().enumerate().skip(1) {
            let mut named = GOOD.to_vec();
            named.remove(at);
            let (property, why) = Oidc::of(&properties(&named)).unwrap_err();
            assert_eq!(property, "sasl.mechanisms");
            assert!(why.contains(missing), "{why}");
        }
        for (property, value) in [
            ("sasl.oauthbearer.extensions", "logicalCluster=lkc-1"),
            ("enable.ssl.certificate.verification", "false"),
            ("ssl.key.password", "hunter2"),
        ] {
            let mut named = GOOD.to_vec();
            named.push((property, value));
            let (blamed, why) = Oidc::of(&properties(&named)).unwrap_err();
            assert_eq!(blamed, property);
            assert!(!why.contains("hunter2"), "{why}");
        }
        let mut named = GOOD.to_vec();
        named[5].1 = "";
        assert!(Oidc::of(&properties(&named)).is_err(), "an empty secret");
        let other = properties(&[("sasl.oauthbearer.method", "oidc")]);
        assert!(Oidc::of(&other).is_err());
    }

    #[test]
    fn a_secret_is_sent_without_tls_to_this_host_only() {
        for good in [
            "https://auth.example/token",
            "http://127.0.0.1:8080/token",
            "http://localhost/token",
            "http://[::1]:1/",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://auth.example/token",
            "ftp://127.0.0.1/",
            "auth.example",
            "https://user:hunter2@auth.example/",
        ] {
            let why = address(bad).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn a_token_is_replaced_before_librdkafka_requests_one_and_a_failure_is_retried_soon() {
        let token = Token {
            value: String::new(),
            principal: String::new(),
            expires_ms: 1_000_000 + 400_000,
        };
        let mut schedule = Schedule::after(1_000_000, &token);
        assert!(!schedule.is_due(1_299_999));
        assert!(schedule.is_due(1_300_000));
        assert!(schedule.is_due(999_999), "the clock was set back");
        assert_eq!(schedule.wait(1_299_000), Duration::from_secs(1));
        let mut now_ms = 1_300_000;
        for pause_ms in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            schedule.failed(now_ms);
            now_ms += pause_ms;
            assert_eq!(schedule.next_ms, now_ms);
        }
        let dead = Token {
            expires_ms: 0,
            ..token
        };
        assert_eq!(Schedule::after(5_000, &dead).next_ms, 6_000);
    }
}
