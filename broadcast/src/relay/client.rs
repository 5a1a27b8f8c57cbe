//! The client of a relay: connects to an upstream, applies its updates, and connects to the next one when it is lost.
//!
//! ```text
//!            welcome           snapshot end        timeout, close, bad message
//!  seeking ───────────▶ catching up ────▶ connected ───────────────┐
//!     ▲  the next one, after a jittered pause                      │ disconnected
//!     └────────────────────────────────────────────────────────────┘
//! ```
//!
//! The relay sends the ranges of finals that it has, and the upstream sends all other finals. So when the relay
//! connects to another upstream, no final is lost or applied twice. If a room was removed while the relay was
//! disconnected, the room is missing in the snapshot, and the relay removes it, too.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use emostream_http::{ClientTls, Component};
use emostream_model::{
    MAX_DOWN_BYTES, NodeId, RelayDown, RelayHandshake, RelayHello, RelaySide, RelayUp, RelayUpdate,
    RelayWelcome,
};
use rand::RngExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, split},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use crate::error::BroadcastError;
use crate::hub::updates::{Updates, now_us};
use crate::hub::upstream_status::UpstreamStatus;
use crate::relay::audience::ReportedAudience;
use crate::relay::auth::{RelayToken, nonce};
use crate::relay::received_snapshot::ReceivedSnapshot;
use crate::relay::transport::{
    self, AsyncStream, HEARTBEAT, HELLO_TIMEOUT, LinkError, MessageReader,
};

/// Timeout of a TCP connect. It is enough for a round trip to another continent and one lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);

/// Maximum time to find an upstream when a relay starts.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum pause before the next upstream is tried. It is short, and the pause is random: if an upstream fails, all its
/// relays connect to the same next one.
const FIRST_PAUSE_MS: u64 = 200;
/// Base of the maximum pause after all upstreams have failed. It is doubled in each round.
const ROUND_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 1000;

/// Minimum duration of a stable connection. A connection that is lost sooner counts as a failure, so that the pause
/// grows. Otherwise the relay would request all rooms of a faulty upstream several times a second.
const STABLE_AFTER: Duration = Duration::from_secs(5);

/// Time after which the same error of the same upstream is logged again.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// The upstreams of a relay.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// Addresses (`host:port`), the preferred one first. The relay is connected to one of them at a time.
    pub addresses: Vec<String>,
    /// The name of this relay in the upstreams' logs.
    pub name: String,
    /// The token that this relay and its upstreams share.
    pub token: RelayToken,
    /// The certificates to trust, or `None` without TLS.
    pub trust: Option<ClientTls>,
}

/// The state of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientState {
    Seeking,
    CatchingUp,
    Connected,
}

/// The task of the client. It is aborted when this value is dropped.
pub(crate) struct UpstreamClient(JoinHandle<()>);

impl UpstreamClient {
    /// Connects to an upstream, and returns once its snapshot is applied.
    pub(crate) async fn start(
        upstreams: Upstreams,
        updates: &Arc<Updates>,
        readiness: Component,
    ) -> Result<Self, BroadcastError> {
        let (state, mut states) = watch::channel(ClientState::Seeking);
        let (errors, last_errors) = watch::channel(String::new());
        let connection = Connector {
            upstreams,
            updates: updates.clone(),
            readiness,
            state,
            errors,
            logged: BTreeMap::new(),
        };
        let client = Self(tokio::spawn(connection.run()));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let now = *states.borrow_and_update();
            let late = Instant::now() >= deadline;
            match now {
                ClientState::Connected => return Ok(client),
                ClientState::Seeking if late => {
                    let errors = last_errors.borrow().clone();
                    return Err(BroadcastError::NoUpstream(errors));
                }
                // An upstream was found in time. Applying its snapshot may take longer than `START_TIMEOUT`, so there
                // is no timeout here.
                ClientState::CatchingUp if late => drop(states.changed().await),
                ClientState::Seeking | ClientState::CatchingUp => tokio::select! {
                    _ = states.changed() => {}
                    () = sleep_until(deadline) => {}
                    rejected = updates.log_mismatch() => {
                        return Err(BroadcastError::OtherLog(rejected.to_string()));
                    }
                },
            }
        }
    }
}

impl Drop for UpstreamClient {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Connector {
    upstreams: Upstreams,
    updates: Arc<Updates>,
    readiness: Component,
    state: watch::Sender<ClientState>,
    /// The last errors of all upstreams: the reason why there is no upstream.
    errors: watch::Sender<String>,
    /// The last error of each upstream, and when it was logged.
    logged: BTreeMap<String, (String, Instant)>,
}

impl Connector {
    async fn run(mut self) {
        self.readiness.not_ready("no upstream yet");
        let addresses = self.upstreams.addresses.clone();
        let mut failures = 0;
        for at in addresses.iter().cycle() {
            let since = Instant::now();
            let error = match self.follow(at).await {
                Ok(never) => never,
                Err(error) => error,
            };
            let was_connected = *self.state.borrow() == ClientState::Connected;
            self.disconnected(at, &error, was_connected);
            let is_stable = was_connected && since.elapsed() >= STABLE_AFTER;
            failures = if is_stable { 0 } else { failures + 1 };
            sleep(pause(failures, addresses.len())).await;
        }
    }

    fn disconnected(&mut self, at: &str, error: &LinkError, was_connected: bool) {
        let why = error.to_string();
        let logged = self.logged.get(at);
        let again = logged.is_some_and(|(last, when)| *last == why && when.elapsed() < LOG_EVERY);
        if was_connected {
            self.updates.metrics.upstream_losses.inc();
        }
        if was_connected || !again {
            tracing::warn!(upstream = at, "no connection to this upstream: {why}");
            self.logged.insert(at.to_owned(), (why, Instant::now()));
        }
        let errors = self.logged.iter();
        let errors = errors.map(|(at, (why, _))| format!("{at}: {why}"));
        let errors = errors.collect::<Vec<_>>().join("; ");
        self.readiness
            .not_ready(format!("no connection to an upstream: {errors}"));
        self.errors.send_replace(errors);
        self.updates.metrics.upstream.set(0);
        self.updates
            .hub
            .upstream_status
            .send_replace(UpstreamStatus::Disconnected);
        self.state.send_replace(ClientState::Seeking);
        // Results expire even without an upstream, so they are swept here.
        self.updates.sweep();
    }

    /// Runs the session with one upstream, until it ends.
    async fn follow(&self, at: &str) -> Result<LinkError, LinkError> {
        let stream = self.connect(at).await?;
        let (reading, mut writer) = split(stream);
        let mut reader = MessageReader::new(reading, MAX_DOWN_BYTES);
        let handshake = self.handshake(&mut reader, &mut writer);
        let welcome = timeout(HELLO_TIMEOUT, handshake).await;
        let welcome = welcome.unwrap_or(Err(LinkError::NoAnswer(HELLO_TIMEOUT)));
        let welcome = welcome.map_err(|error| match error {
            LinkError::Silent(_) | LinkError::NoAnswer(_) if self.upstreams.trust.is_none() => {
                LinkError::NoTls
            }
            error => error,
        })?;
        let hub = &self.updates.hub;
        hub.set_window_settings(welcome.window_settings);
        self.state.send_replace(ClientState::CatchingUp);
        tokio::select! {
            Err(error) = self.receive(at, welcome.path.into(), &mut reader) => Err(error),
            Err(error) = self.report(&mut writer) => Err(error),
        }
    }

    async fn connect(&self, at: &str) -> Result<Box<dyn AsyncStream>, LinkError> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(at)).await;
        let connected = connected.map_err(|_| LinkError::NoAnswer(CONNECT_TIMEOUT))?;
        let stream = connected.map_err(LinkError::Unreachable)?;
        // The error is ignored: a broken socket fails at its first read.
        let _ = stream.set_nodelay(true);
        let Some(trust) = &self.upstreams.trust else {
            return Ok(Box::new(stream));
        };
        match timeout(HELLO_TIMEOUT, trust.connect(host(at), stream)).await {
            Ok(tls_stream) => Ok(Box::new(tls_stream.map_err(in_our_flags)?)),
            Err(_) => Err(LinkError::NoAnswer(HELLO_TIMEOUT)),
        }
    }

    /// Proves to the upstream that this relay knows the token, and verifies the upstream's proof.
    async fn handshake(
        &self,
        reader: &mut MessageReader<impl AsyncRead + Unpin>,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<RelayWelcome, LinkError> {
        let first = reader.down().await.map_err(|error| match error {
            // The upstream expects TLS: it closed the connection when its TLS handshake timed out.
            LinkError::Closed if self.upstreams.trust.is_none() => LinkError::NoTls,
            error => error,
        })?;
        let challenge = match first {
            RelayDown::Challenge(challenge) => challenge,
            RelayDown::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(LinkError::UnexpectedMessage),
        };
        let handshake = RelayHandshake {
            challenge,
            answer: nonce(),
            relay: self.updates.hub.node,
        };
        let token = &self.upstreams.token;
        let hello = RelayHello {
            node: self.updates.hub.node,
            name: self.upstreams.name.clone(),
            nonce: handshake.answer,
            proof: token.prove(RelaySide::Relay, &handshake),
            has: self.updates.hub.offsets.all(),
        };
        transport::write(writer, &RelayUp::Hello(hello).frame()).await?;
        let welcome = match reader.down().await? {
            RelayDown::Welcome(welcome) => welcome,
            RelayDown::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(LinkError::UnexpectedMessage),
        };
        if !token.verifies(RelaySide::Upstream, &handshake, &welcome.proof) {
            return Err(LinkError::NoProof);
        }
        self.check_path(&welcome.path)?;
        Ok(welcome)
    }

    /// Checks that the path from the upstream to the publisher does not contain this relay, which would be a loop.
    fn check_path(&self, path: &[NodeId]) -> Result<(), LinkError> {
        match path.contains(&self.updates.hub.node) {
            true => Err(emostream_model::Refusal::Loop.into()),
            false => Ok(()),
        }
    }

    /// Receives and applies updates until the connection fails.
    async fn receive(
        &self,
        at: &str,
        mut way: Arc<[NodeId]>,
        reader: &mut MessageReader<impl AsyncRead + Unpin>,
    ) -> Result<(), LinkError> {
        let updates = &self.updates;
        let mut warned = false;
        let mut snapshot: Option<ReceivedSnapshot> = None;
        loop {
            let is_connected = *self.state.borrow() == ClientState::Connected;
            match reader.down().await? {
                RelayDown::Heartbeat => {}
                RelayDown::Updates {
                    origin_us,
                    updates: batch,
                } => {
                    for update in batch {
                        if !warned && has_unnamed(&update) {
                            warned = true;
                            tracing::warn!(
                                upstream = at,
                                "the upstream sends counts of emojis that this build does not know; they are \
                                 included in `others`: run the same version of emostream everywhere"
                            );
                        }
                        if let Some(snapshot) = &mut snapshot {
                            snapshot.observe(&update);
                        }
                        updates.apply(origin_us, update)?;
                    }
                    updates.log.flush();
                    if is_connected {
                        let us = now_us().saturating_sub(origin_us);
                        updates.metrics.relay_delay.observe(us as f64 / 1e6);
                    }
                }
                RelayDown::Snapshot => snapshot = Some(ReceivedSnapshot::default()),
                RelayDown::SnapshotEnd => {
                    if let Some(snapshot) = snapshot.take() {
                        for removed in snapshot.removals(&updates.hub) {
                            updates.apply(now_us(), removed)?;
                        }
                        updates.log.flush();
                    }
                    updates.metrics.rooms.set(updates.hub.len() as i64);
                    updates.metrics.upstream.set(1);
                    updates
                        .hub
                        .upstream_status
                        .send_replace(UpstreamStatus::Connected(way.clone()));
                    self.readiness.ready();
                    if self.state.send_replace(ClientState::Connected) != ClientState::Connected {
                        tracing::info!(upstream = at, "connected to this upstream");
                    }
                }
                RelayDown::Path(path) => {
                    self.check_path(&path)?;
                    way = path.into();
                    if is_connected {
                        updates
                            .hub
                            .upstream_status
                            .send_replace(UpstreamStatus::Connected(way.clone()));
                    }
                }
                RelayDown::Challenge(_) | RelayDown::Welcome(_) | RelayDown::Refused(_) => {
                    return Err(LinkError::UnexpectedMessage);
                }
            }
        }
    }

    /// Sends heartbeats, and the audience as it changes.
    async fn report(&self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), LinkError> {
        let mut reported = ReportedAudience::default();
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            heartbeat.tick().await;
            transport::write(writer, &RelayUp::Heartbeat.frame()).await?;
            for changes in reported.changes(&self.updates.hub) {
                transport::write(writer, &changes.frame()).await?;
            }
            self.updates.sweep();
        }
    }
}

/// Returns whether the update contains counts of emojis that this build does not know.
fn has_unnamed(update: &RelayUpdate) -> bool {
    match update {
        RelayUpdate::Final(closed) => closed.record.unnamed() > 0,
        RelayUpdate::Live(record) => record.unnamed() > 0,
        _ => false,
    }
}

/// Replaces the names of flags in a TLS error by the names of the relay's flags.
fn in_our_flags(error: io::Error) -> LinkError {
    let words = error.to_string();
    let words = words.replace("--cacert", "--upstream-ca");
    let words = words.replace("write http://", "remove --upstream-tls and --upstream-ca");
    LinkError::Unreachable(io::Error::other(words))
}

/// Returns the host of `host:port`, without the brackets of an IPv6 address.
fn host(at: &str) -> &str {
    let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.unwrap_or(host)
}

/// Returns the pause before the next upstream is tried. `failures` attempts in succession have failed, and there are
/// `all` upstreams.
fn pause(failures: usize, all: usize) -> Duration {
    let rounds = failures / all.max(1);
    let most_ms = match rounds {
        0 => FIRST_PAUSE_MS,
        _ => (ROUND_PAUSE_MS << rounds.min(8)).min(LONGEST_PAUSE_MS),
    };
    let least_ms = if rounds == 0 { 0 } else { most_ms / 2 };
    Duration::from_millis(rand::rng().random_range(least_ms..most_ms))
}
