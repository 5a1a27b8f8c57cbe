//! The key set of `--jwks-url`, kept up to date while tokens are verified with it.
//!
//! ```text
//!  requests ─▶ verify ─▶ the current set ◀── replaces ── task ── GET ──▶ endpoint
//!                └─ unknown kid ─ Refresh: at most once in 10 s ──▶ wakes it
//! ```
//!
//! Invariants: a set replaces another only if it has a usable key. While the endpoint fails, the last set stays in use.

#![allow(clippy::disallowed_methods, reason = "this module fetches keys")]

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tokio::{
    sync::{Notify, watch},
    time::{sleep_until, timeout},
};

use crate::{
    ClientTls, Component, Readiness,
    middleware::auth::{
        claims::{Claims, InvalidToken, RequiredClaims},
        jwks_client::{FETCH_TIME, JwksClient},
        jwks_url::JwksUrl,
        key_set::{KeySet, describe_skipped},
        refresh::{Refresh, UnknownKey},
        token_key::Origin,
    },
};

/// Maximum time that a request whose token has an unknown key waits for a fetch: the timeout of the fetch, plus one
/// second, since the host may be busy.
const UNKNOWN_KEY_TIMEOUT: Duration = FETCH_TIME.saturating_add(Duration::from_secs(1));

/// A key set that a task fetches from a URL. Clones share the key set.
#[derive(Debug, Clone)]
pub(crate) struct RemoteKeys(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: JwksClient,
    required: RequiredClaims,
    current: watch::Sender<Current>,
    refresh: Mutex<Refresh>,
    /// Wakes the task up when [`Refresh::due`] has become earlier.
    wake: Notify,
    metrics: Metrics,
}

/// The state that the task publishes to requests.
#[derive(Debug, Clone, Default)]
struct Current {
    set: Option<Arc<KeySet>>,
    /// Number of fetches that have ended.
    fetches: u64,
    /// Whether the last fetch has failed.
    failing: bool,
}

/// A key set, and the time for which the set is fresh, if the server sends this time.
type Fetched = (Arc<KeySet>, Option<Duration>);

/// The reason why a token was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The token is invalid.
    Token(InvalidToken),
    /// The validity of the token is unknown, because its key could not be fetched.
    NoKeys,
}

impl RemoteKeys {
    /// Creates an instance without keys, which [`RemoteKeys::follow`] fetches. An `https://` URL requires `trust`.
    pub(super) fn new(url: JwksUrl, trust: Option<ClientTls>, required: RequiredClaims) -> Self {
        Self(Arc::new(Shared {
            client: JwksClient::new(url, trust),
            required,
            current: watch::Sender::default(),
            refresh: Mutex::new(Refresh::new(Instant::now())),
            wake: Notify::new(),
            metrics: Metrics::new(),
        }))
    }

    /// Returns the claims of a token that is valid at `now`. If the token has an unknown `kid`, the request waits for a
    /// fetch that is in progress or may begin now.
    pub(super) async fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, Refused> {
        let current = self.0.current.borrow().clone();
        match current.verify(token, now) {
            Err(Refused::Token(InvalidToken::UnknownKey)) => {
                // The future of the fetch is boxed, since it is rarely needed. Otherwise the future of every request
                // would be larger.
                Box::pin(self.verify_after_fetch(token, now, current.fetches)).await
            }
            verified => verified,
        }
    }

    /// Waits for a fetch and verifies the token again. `fetches` is the number of fetches that had ended when the key
    /// was not found.
    async fn verify_after_fetch(
        &self,
        token: &str,
        now: SystemTime,
        fetches: u64,
    ) -> Result<Claims, Refused> {
        let shared = &self.0;
        shared.metrics.unknown_kids.inc();
        let decision = {
            let mut refresh = shared.refresh();
            // If a fetch has ended after the key was not found, that fetch may have added the key, so no other fetch is
            // needed.
            let is_current = shared.current.borrow().fetches == fetches;
            is_current.then(|| refresh.unknown_key(Instant::now()))
        };
        if decision == Some(UnknownKey::Fetch) {
            shared.wake.notify_one();
        }
        if let Some(UnknownKey::Fetch | UnknownKey::Wait) = decision {
            let mut current = shared.current.subscribe();
            let fetched = current.wait_for(|current| current.fetches != fetches);
            // After a timeout the token is verified with the current keys.
            let _ = timeout(UNKNOWN_KEY_TIMEOUT, fetched).await;
        }
        let current = shared.current.borrow().clone();
        current.verify(token, now)
    }

    /// Starts the task that fetches the set at once, and then keeps it up to date for as long as the process runs. Call
    /// it once, in a tokio runtime.
    pub(super) fn follow(
        &self,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<(), prometheus::Error> {
        self.0.metrics.register(registry)?;
        let shared = self.0.clone();
        let reporter = Reporter::new(shared.client.url().clone(), readiness);
        tokio::spawn(async move { shared.run(reporter).await });
        Ok(())
    }
}

impl Current {
    fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, Refused> {
        let set = self.set.as_ref().ok_or(Refused::NoKeys)?;
        set.verify(token, now).map_err(|invalid| match invalid {
            // The last fetch has failed, so the endpoint may have a key that this process does not know. The client
            // gets a 503, so that it retries with the same token. It would not retry after a 401.
            InvalidToken::UnknownKey if self.failing => Refused::NoKeys,
            invalid => Refused::Token(invalid),
        })
    }
}

impl Shared {
    async fn run(&self, mut reporter: Reporter) {
        loop {
            let due = self.refresh().due();
            tokio::select! {
                () = sleep_until(due.into()) => {}
                () = self.wake.notified() => continue,
            }
            self.refresh().started();
            let fetched = self.fetch().await;
            self.apply(&fetched);
            match &fetched {
                Ok((set, _)) => {
                    self.metrics.fetched(set.len());
                    reporter.fetched(set);
                }
                Err(why) => {
                    self.metrics.failed.inc();
                    reporter.failed(why);
                }
            }
        }
    }

    fn apply(&self, fetched: &Result<Fetched, String>) {
        // The lock is held until `current` and `refresh` have both changed. Otherwise a request could wait for a fetch
        // that has already ended.
        let (mut refresh, now) = (self.refresh(), Instant::now());
        self.current.send_modify(|current| {
            current.fetches += 1;
            current.failing = fetched.is_err();
            if let Ok((set, _)) = fetched {
                current.set = Some(set.clone());
            }
        });
        match fetched {
            Ok((_, max_age)) => refresh.succeeded(*max_age, now),
            Err(_) => refresh.failed(rand::random(), now),
        }
    }

    /// Fetches and parses the set, or returns why that failed.
    async fn fetch(&self) -> Result<Fetched, String> {
        let fetched = self.client.fetch().await.map_err(|why| why.to_string())?;
        let set = KeySet::parse(&fetched.text, Origin::Url, &self.required);
        let set = set.map_err(|why| format!("responded with a text that {why}"))?;
        Ok((Arc::new(set), fetched.max_age))
    }

    fn refresh(&self) -> MutexGuard<'_, Refresh> {
        self.refresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports the result of each fetch to readiness, and logs the results that differ from the previous one.
struct Reporter {
    url: JwksUrl,
    component: Component,
    has_set: bool,
    failing: bool,
    /// The lines about skipped keys that were logged last.
    skipped: Vec<String>,
}

impl Reporter {
    fn new(url: JwksUrl, readiness: &Readiness) -> Self {
        let component = readiness.component("tokens");
        component.not_ready(format!("the key set {url} is being fetched"));
        Self {
            url,
            component,
            has_set: false,
            failing: false,
            skipped: Vec::new(),
        }
    }

    fn fetched(&mut self, set: &KeySet) {
        let (url, keys) = (&self.url, set.len());
        if !self.has_set || self.failing {
            tracing::info!("the key set {url} was fetched: {keys} usable keys");
        }
        let skipped = describe_skipped(set.skipped());
        if skipped != self.skipped {
            for line in &skipped {
                tracing::info!("the key set {url}: {line}");
            }
            self.skipped = skipped;
        }
        (self.has_set, self.failing) = (true, false);
        self.component.ready();
    }

    fn failed(&mut self, why: &str) {
        let url = &self.url;
        let consequence = match self.has_set {
            true => "the keys that were fetched before stay in use",
            false => "requests with tokens get 503",
        };
        match self.failing {
            true => tracing::debug!("the key set {url} {why}"),
            false => tracing::warn!("the key set {url} {why}; {consequence}"),
        }
        self.failing = true;
        match self.has_set {
            true => self
                .component
                .ready_as(format!("the key set {url} {why}; {consequence}")),
            false => self.component.not_ready(format!("the key set {url} {why}")),
        }
    }
}

#[derive(Debug)]
struct Metrics {
    refreshes: IntCounterVec,
    fetched: IntCounter,
    failed: IntCounter,
    keys: IntGauge,
    fetched_at: Gauge,
    unknown_kids: IntCounter,
}

impl Metrics {
    fn new() -> Self {
        let opts = Opts::new(
            "emostream_jwks_refreshes_total",
            "Number of fetches of the key set, by outcome.",
        );
        let refreshes = valid(IntCounterVec::new(opts, &["outcome"]));
        Self {
            fetched: refreshes.with_label_values(&["fetched"]),
            failed: refreshes.with_label_values(&["failed"]),
            refreshes,
            keys: valid(IntGauge::new(
                "emostream_jwks_keys",
                "Usable keys of the key set.",
            )),
            fetched_at: valid(Gauge::new(
                "emostream_jwks_fetched_timestamp_seconds",
                "Unix time at which the current key set was fetched; 0 before the first fetch.",
            )),
            unknown_kids: valid(IntCounter::new(
                "emostream_jwks_unknown_kids_total",
                "Requests with a token whose kid is not in the key set.",
            )),
        }
    }

    fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.refreshes.clone()))?;
        registry.register(Box::new(self.keys.clone()))?;
        registry.register(Box::new(self.fetched_at.clone()))?;
        registry.register(Box::new(self.unknown_kids.clone()))
    }

    fn fetched(&self, keys: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.fetched.inc();
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.fetched_at.set(now.unwrap_or_default().as_secs_f64());
    }
}

/// Unwraps a metric whose name is a valid constant.
fn valid<T>(made: Result<T, prometheus::Error>) -> T {
    made.unwrap_or_else(|_| unreachable!("the names of the metrics are valid"))
}

#[cfg(test)]
mod tests;
