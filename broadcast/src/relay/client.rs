//! A relay's own upstream: found, followed, lost, and another one found.
//!
//! ```text
//!            welcome           present             silence, closed, nonsense
//!  seeking ───────────▶ catching up ────▶ fed ─────────────────────┐
//!     ▲  the next one, after a jittered pause                      │ cut off
//!     └────────────────────────────────────────────────────────────┘
//! ```
//!
//! Whichever it is, an upstream is told what this relay has, and tells the rest. So a change of upstreams
//! loses nothing and doubles nothing.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use emostream_http::{Component, Trust};
use emostream_model::{
    MAX_DOWN_BYTES, NodeId, RelayDown, RelayHello, RelayMeeting, RelaySide, RelayUp, RelayUpdate,
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

use crate::{
    error::BroadcastError,
    hub::{
        updates::{Updates, now_us},
        upstream_status::UpstreamStatus,
    },
    relay::{
        audience::Told,
        auth::{RelayToken, nonce},
        node::Node,
        transport::{self, HEARTBEAT, HELLO_PATIENCE, Incoming, LinkError, Wire},
    },
};

/// How long an upstream may take to accept: the round trip to another continent, and one lost packet.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1500);

/// How long a relay that starts looks for an upstream.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// The pause before the next upstream is tried: short, and spread, since all relays of one that has died
/// come to the same next one.
const FIRST_PAUSE_MS: u64 = 200;
/// Once all were tried in vain; doubled each round.
const ROUND_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 1000;

/// An upstream that feeds for less than this is tried as one that does not: without a pause that grows, one that
/// comes and goes would be asked for all its rooms ten times a second.
const STEADY: Duration = Duration::from_secs(5);

/// How often the same complaint of the same upstream is repeated.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Where a relay gets its news from.
#[derive(Debug, Clone)]
pub struct Upstreams {
    /// `host:port` of each, the best first; one at a time is followed.
    pub addresses: Vec<String>,
    /// What the upstreams call this relay in their logs.
    pub name: String,
    /// What this relay and its upstreams know.
    pub token: RelayToken,
    /// Whom to believe, if TLS is spoken with them.
    pub trust: Option<Trust>,
}

/// How far a relay has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Seeking,
    CatchingUp,
    Fed,
}

/// Follows upstreams until it is dropped.
#[derive(Debug)]
pub(crate) struct Follower(JoinHandle<()>);

impl Follower {
    /// Finds an upstream, and returns once all that it has is here.
    pub(crate) async fn start(
        upstreams: Upstreams,
        node: &Node,
        readiness: Component,
    ) -> Result<Self, BroadcastError> {
        let (stage, mut stages) = watch::channel(Stage::Seeking);
        let (complaint, complaints) = watch::channel(String::new());
        let following = Following {
            upstreams,
            node: node.id,
            updates: node.updates.clone(),
            readiness,
            stage,
            complaint,
            told: BTreeMap::new(),
        };
        let follower = Self(tokio::spawn(following.run()));
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let now = *stages.borrow_and_update();
            let late = Instant::now() >= deadline;
            match now {
                Stage::Fed => return Ok(follower),
                Stage::Seeking if late => {
                    let complaints = complaints.borrow().clone();
                    return Err(BroadcastError::NoUpstream(complaints));
                }
                // All that there is may take longer.
                Stage::CatchingUp if late => drop(stages.changed().await),
                Stage::Seeking | Stage::CatchingUp => tokio::select! {
                    _ = stages.changed() => {}
                    () = sleep_until(deadline) => {}
                    rejected = node.updates.log_mismatch() => {
                        return Err(BroadcastError::OtherLog(rejected.to_string()));
                    }
                },
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Following {
    upstreams: Upstreams,
    node: NodeId,
    updates: Arc<Updates>,
    readiness: Component,
    stage: watch::Sender<Stage>,
    /// Why there is no upstream, for people.
    complaint: watch::Sender<String>,
    /// The last complaint of each, and when it was told.
    told: BTreeMap<String, (String, Instant)>,
}

impl Following {
    async fn run(mut self) {
        self.readiness.not_ready("no upstream yet");
        let addresses = self.upstreams.addresses.clone();
        let mut in_vain = 0;
        for at in addresses.iter().cycle() {
            let since = Instant::now();
            let error = match self.follow(at).await {
                Ok(never) => never,
                Err(error) => error,
            };
            let was_fed = *self.stage.borrow() == Stage::Fed;
            self.cut_off(at, &error, was_fed);
            let steady = was_fed && since.elapsed() >= STEADY;
            in_vain = if steady { 0 } else { in_vain + 1 };
            sleep(pause(in_vain, addresses.len())).await;
        }
    }

    fn cut_off(&mut self, at: &str, error: &LinkError, was_fed: bool) {
        let why = error.to_string();
        let told = self.told.get(at);
        let again = told.is_some_and(|(last, when)| *last == why && when.elapsed() < TELL_EVERY);
        if was_fed {
            self.updates.metrics.upstream_losses.inc();
        }
        if was_fed || !again {
            tracing::warn!(upstream = at, "no news from this upstream: {why}");
            self.told.insert(at.to_owned(), (why, Instant::now()));
        }
        let complaints = self
            .told
            .iter()
            .map(|(at, (why, _))| format!("{at}: {why}"));
        let complaints = complaints.collect::<Vec<_>>().join("; ");
        self.readiness
            .not_ready(format!("no upstream feeds it: {complaints}"));
        self.complaint.send_replace(complaints);
        self.updates.metrics.upstream.set(0);
        self.updates
            .hub
            .upstream_status()
            .send_replace(UpstreamStatus::Disconnected);
        self.stage.send_replace(Stage::Seeking);
        // What is old is forgotten without an upstream, too.
        self.updates.sweep();
    }

    /// Follows one upstream to its end.
    async fn follow(&self, at: &str) -> Result<LinkError, LinkError> {
        let wire = self.connect(at).await?;
        let (reading, mut writing) = split(wire);
        let mut incoming = Incoming::new(reading, MAX_DOWN_BYTES);
        let greeting = self.greet(&mut incoming, &mut writing);
        let welcome = timeout(HELLO_PATIENCE, greeting).await;
        let welcome = welcome.unwrap_or(Err(LinkError::NoAnswer(HELLO_PATIENCE)));
        let welcome = welcome.map_err(|error| match error {
            LinkError::Silent(_) | LinkError::NoAnswer(_) if self.upstreams.trust.is_none() => {
                LinkError::Mute
            }
            error => error,
        })?;
        let hub = &self.updates.hub;
        hub.set_window_settings(welcome.window_settings);
        self.stage.send_replace(Stage::CatchingUp);
        tokio::select! {
            Err(error) = self.hear(at, welcome.path.into(), &mut incoming) => Err(error),
            Err(error) = self.tell(&mut writing) => Err(error),
        }
    }

    async fn connect(&self, at: &str) -> Result<Box<dyn Wire>, LinkError> {
        let connected = timeout(CONNECT_PATIENCE, TcpStream::connect(at)).await;
        let connected = connected.map_err(|_| LinkError::NoAnswer(CONNECT_PATIENCE))?;
        let stream = connected.map_err(LinkError::Unreachable)?;
        // A socket that is already broken shows itself at its first read.
        let _ = stream.set_nodelay(true);
        let Some(trust) = &self.upstreams.trust else {
            return Ok(Box::new(stream));
        };
        match timeout(HELLO_PATIENCE, trust.speak(host(at), stream)).await {
            Ok(spoken) => Ok(Box::new(spoken.map_err(in_our_flags)?)),
            Err(_) => Err(LinkError::NoAnswer(HELLO_PATIENCE)),
        }
    }

    /// Says who is here, and finds out who is there.
    async fn greet(
        &self,
        incoming: &mut Incoming<impl AsyncRead + Unpin>,
        writing: &mut (impl AsyncWrite + Unpin),
    ) -> Result<RelayWelcome, LinkError> {
        let first = incoming.down().await.map_err(|error| match error {
            // It gave up waiting for TLS before this relay did.
            LinkError::Closed if self.upstreams.trust.is_none() => LinkError::Mute,
            error => error,
        })?;
        let challenge = match first {
            RelayDown::Challenge(challenge) => challenge,
            RelayDown::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(LinkError::OutOfTurn),
        };
        let meeting = RelayMeeting {
            challenge,
            answer: nonce(),
            relay: self.node,
        };
        let token = &self.upstreams.token;
        let hello = RelayHello {
            node: self.node,
            name: self.upstreams.name.clone(),
            nonce: meeting.answer,
            proof: token.prove(RelaySide::Relay, &meeting),
            has: self.updates.hub.offsets().all(),
        };
        transport::write(writing, &RelayUp::Hello(hello).frame()).await?;
        let welcome = match incoming.down().await? {
            RelayDown::Welcome(welcome) => welcome,
            RelayDown::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(LinkError::OutOfTurn),
        };
        if !token.verifies(RelaySide::Upstream, &meeting, &welcome.proof) {
            return Err(LinkError::NoProof);
        }
        self.check(&welcome.path)?;
        Ok(welcome)
    }

    /// None of those who feed the upstream is this relay.
    fn check(&self, path: &[NodeId]) -> Result<(), LinkError> {
        match path.contains(&self.node) {
            true => Err(emostream_model::Refusal::Loop.into()),
            false => Ok(()),
        }
    }

    /// Takes in what comes.
    async fn hear(
        &self,
        at: &str,
        mut way: Arc<[NodeId]>,
        incoming: &mut Incoming<impl AsyncRead + Unpin>,
    ) -> Result<(), LinkError> {
        let updates = &self.updates;
        let mut told = false;
        loop {
            let fed = *self.stage.borrow() == Stage::Fed;
            match incoming.down().await? {
                RelayDown::Heartbeat => {}
                RelayDown::Updates {
                    born_us: origin_us,
                    updates: batch,
                } => {
                    for update in batch {
                        if !told && has_unnamed(&update) {
                            told = true;
                            tracing::warn!(
                                upstream = at,
                                "it counts emojis that this build does not know; they are among the others: \
                                 run the same emostream everywhere"
                            );
                        }
                        updates.apply(origin_us, None, update)?;
                    }
                    updates.log.flush();
                    if fed {
                        let us = now_us().saturating_sub(origin_us);
                        updates.metrics.relay_delay.observe(us as f64 / 1e6);
                    }
                }
                RelayDown::Present => {
                    updates.metrics.rooms.set(updates.hub.len() as i64);
                    updates.metrics.upstream.set(1);
                    updates
                        .hub
                        .upstream_status()
                        .send_replace(UpstreamStatus::Connected(way.clone()));
                    self.readiness.ready();
                    if self.stage.send_replace(Stage::Fed) != Stage::Fed {
                        tracing::info!(upstream = at, "news comes from this upstream from now on");
                    }
                }
                RelayDown::Path(path) => {
                    self.check(&path)?;
                    way = path.into();
                    if fed {
                        updates
                            .hub
                            .upstream_status()
                            .send_replace(UpstreamStatus::Connected(way.clone()));
                    }
                }
                RelayDown::Challenge(_) | RelayDown::Welcome(_) | RelayDown::Refused(_) => {
                    return Err(LinkError::OutOfTurn);
                }
            }
        }
    }

    /// Tells the audience as it changes, and that this relay lives.
    async fn tell(&self, writing: &mut (impl AsyncWrite + Unpin)) -> Result<(), LinkError> {
        let mut told = Told::default();
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            transport::write(writing, &RelayUp::Heartbeat.frame()).await?;
            for changes in told.changes(&self.updates.hub) {
                transport::write(writing, &changes.frame()).await?;
            }
            self.updates.sweep();
        }
    }
}

/// Whether it counts what this build cannot name.
fn has_unnamed(update: &RelayUpdate) -> bool {
    match update {
        RelayUpdate::Final { record, .. } | RelayUpdate::Live(record) => record.unnamed() > 0,
        _ => false,
    }
}

/// Whoever speaks TLS elsewhere names whom to believe by other flags.
fn in_our_flags(error: io::Error) -> LinkError {
    let words = error.to_string();
    let words = words.replace("--cacert", "--upstream-ca");
    let words = words.replace(
        "write http://",
        "leave --upstream-tls and --upstream-ca out",
    );
    LinkError::Unreachable(io::Error::other(words))
}

/// The host of `host:port`, without brackets.
fn host(at: &str) -> &str {
    let host = at.rsplit_once(':').map_or(at, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    bare.unwrap_or(host)
}

/// Before the next upstream of `all` is tried, after so many were in vain.
fn pause(in_vain: usize, all: usize) -> Duration {
    let rounds = in_vain / all.max(1);
    let most_ms = match rounds {
        0 => FIRST_PAUSE_MS,
        _ => (ROUND_PAUSE_MS << rounds.min(8)).min(LONGEST_PAUSE_MS),
    };
    let least_ms = if rounds == 0 { 0 } else { most_ms / 2 };
    Duration::from_millis(rand::rng().random_range(least_ms..most_ms))
}
