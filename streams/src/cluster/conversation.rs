//! The protocol of the control connections of a group, from the first dial to the shutdown.
//!
//! ```text
//!            all connected                  process 0: begin       stop requested
//!  Joining ───────────────────▶ Complete ─────────────────▶ Running ─────────▶ Draining ─▶ end
//!     ▲    a connection is lost    │                           │ a process is lost
//!     └────────────────────────────┘                           └─────────────▶ end with an error
//! ```
//!
//! While process 0 stands by, the group is complete and the other processes wait for its `Begin`. When another run has
//! fenced a running group, process 0 drains the group as for a stop, but the processes do not end: they join again.
//!
//! One task owns the state. The tasks of the connections only send events to it.

use std::{
    io,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Cluster, HEARTBEAT, SILENCE,
    group::{News, Order},
    hello::{Agreement, Answer, Hello, same_token},
    join::{self, EVENTS, Event},
    wire::{self, CONTROL_BYTES, Purpose, SharedBeginning, Word},
};
use crate::{Stop, StreamsError};

/// Interval at which the task checks for a requested stop and for silent processes.
const LOOK: Duration = Duration::from_millis(50);

/// Timeout for writing a message. A message is a few bytes that fit into the buffer of the socket: the peer is frozen
/// if they do not.
const WRITE_PATIENCE: Duration = Duration::from_secs(1);

/// How long a drain waits for the confirmations of all processes. It is shorter than the ten seconds that a process has
/// for its shutdown.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// Interval at which a process logs which other processes it waits for. The first line is logged at once.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Exit codes of errors that a restart does not fix: if process 0 ends with one of them, all processes do.
const WILL_NOT_HELP: [u8; 2] = [64, 78];

/// Runs the protocol until this process has left its group. Blocks.
pub(super) fn hold(
    cluster: Arc<Cluster>,
    agreement: Agreement,
    stop: Stop,
    news: SyncSender<News>,
    orders: mpsc::Receiver<Order>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let held = match runtime {
        Ok(runtime) => {
            let held = runtime.block_on(async {
                let since = Instant::now();
                let Some(listener) = join::bind(&cluster, &stop).await? else {
                    return Ok(());
                };
                let (events, arrivals) = mpsc::channel(EVENTS);
                let listening = tokio::spawn(join::listen(listener, events.clone()));
                let mut conversation = Conversation {
                    places: (0..cluster.hosts.len()).map(|_| Place::default()).collect(),
                    cluster,
                    agreement,
                    stop: stop.clone(),
                    news,
                    events,
                    listening: Some(listening),
                    phase: Phase::Joining { since },
                    told: None,
                    connections: 0,
                };
                if let Err(error) = conversation.hold(arrivals, orders).await {
                    // Recorded before the run is notified that this thread has ended.
                    conversation.stop.fail(error);
                    conversation.tell_failure().await;
                }
                Ok(())
            });
            // Dropping the runtime instead would wait for a DNS lookup in progress.
            runtime.shutdown_background();
            held
        }
        Err(error) => Err(StreamsError::Worker(format!(
            "the cluster's thread: {error}"
        ))),
    };
    if let Err(error) = held {
        stop.fail(error);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joining {
        since: Instant,
    },
    /// All processes are connected. Process 0 reads the progress, and the others wait for it.
    Complete,
    Running,
    /// Process 0 has requested the drain from all processes, or this process has requested it from process 0.
    Draining {
        since: Instant,
    },
}

/// The state of another process.
#[derive(Default)]
struct Place {
    data: Option<TcpStream>,
    control: Option<Control>,
    /// Whether it is connected to all processes. Only process 0 records this.
    ready: bool,
    /// Whether it has confirmed the drain. Only process 0 records this.
    draining: bool,
    /// Why it cannot be reached, for messages.
    why: Option<String>,
}

/// A control connection.
struct Control {
    writer: OwnedWriteHalf,
    reading: JoinHandle<()>,
    /// Distinguishes its messages from those of the previous connection to the same process.
    number: u64,
    heard: Instant,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

struct Conversation {
    cluster: Arc<Cluster>,
    agreement: Agreement,
    stop: Stop,
    news: SyncSender<News>,
    events: mpsc::Sender<Event>,
    listening: Option<JoinHandle<()>>,
    places: Vec<Place>,
    phase: Phase,
    /// When the processes that this one waits for were last logged.
    told: Option<Instant>,
    /// Number of control connections so far.
    connections: u64,
}

/// Whether this process leaves the group.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

impl Conversation {
    async fn hold(
        &mut self,
        mut arrivals: mpsc::Receiver<Event>,
        mut orders: mpsc::Receiver<Order>,
    ) -> Result<(), StreamsError> {
        let smaller = 0..self.cluster.index;
        smaller.for_each(|process| self.dial(process, Purpose::Data));
        if self.cluster.index > 0 {
            self.dial(0, Purpose::Control);
        }
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_heartbeat = Instant::now();
        loop {
            let next = tokio::select! {
                Some(event) = arrivals.recv() => self.take(event).await?,
                Some(order) = orders.recv() => match order {
                    Order::Begin(beginning) => self.begin_all(beginning).await?,
                    Order::StandBy(active) => {
                        self.tell_all(&Word::StandingBy(active)).await;
                        Next::GoOn
                    }
                },
                _ = look.tick() => {
                    if Instant::now() >= next_heartbeat {
                        next_heartbeat = Instant::now() + HEARTBEAT;
                        self.tell_all(&Word::Heartbeat).await;
                    }
                    self.look().await?
                }
            };
            if next == Next::Leave {
                return Ok(());
            }
            self.get_ready().await;
        }
    }

    fn leads(&self) -> bool {
        self.cluster.index == 0
    }

    /// Whether the group has not begun yet.
    fn forms(&self) -> bool {
        matches!(self.phase, Phase::Joining { .. } | Phase::Complete)
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.cluster.index;
        (0..self.cluster.hosts.len()).filter(move |process| *process != own)
    }

    /// Returns the processes to which this process has a control connection: for process 0 all others, for the others
    /// process 0.
    fn conversing(&self) -> impl Iterator<Item = usize> + use<> {
        let leads = self.leads();
        self.others().filter(move |process| leads || *process == 0)
    }

    fn dial(&self, process: usize, purpose: Purpose) {
        let hello = Hello {
            process: self.cluster.index,
            to: process,
            purpose,
            token: self.cluster.token.clone(),
            agreement: self.agreement.clone(),
        };
        tokio::spawn(join::dial(self.cluster.clone(), hello, self.events.clone()));
    }

    async fn take(&mut self, event: Event) -> Result<Next, StreamsError> {
        match event {
            Event::Welcomed {
                process,
                purpose,
                stream,
            } => self.place(process, purpose, stream),
            Event::Knocks { hello, stream } => self.open(hello, stream).await?,
            Event::Unreachable { process, why } => self.places[process].why = Some(why),
            Event::Refused(error) => return Err(error),
            Event::Said {
                process,
                since,
                word,
            } => {
                let control = self.places[process].control.as_mut();
                // The connection on which the message arrived was dropped in the meantime.
                let Some(control) = control.filter(|control| control.number == since) else {
                    return Ok(Next::GoOn);
                };
                control.heard = Instant::now();
                return match word {
                    Ok(word) => self.hear(process, word).await,
                    Err(error) => self.lost(process, &closed(&error)).await,
                };
            }
        }
        Ok(Next::GoOn)
    }

    /// Answers the hello of a process that has connected to this one.
    async fn open(&mut self, hello: Hello, mut stream: TcpStream) -> Result<(), StreamsError> {
        if !self.forms() {
            // The connection was accepted before the group began, and a running group accepts no process.
            return Ok(());
        }
        let peer = self.cluster.name(hello.process);
        let difference = self.agreement.difference(&hello.agreement, &peer);
        let answer = if !same_token(&hello.token, &self.cluster.token) {
            tracing::warn!("{peer} was turned away: it has another --cluster-token-file");
            Answer::WrongToken
        } else if difference.is_some() {
            Answer::Differs(self.agreement.clone())
        } else if hello.to != self.cluster.index || !self.expects(&hello) {
            tracing::warn!("{peer} looked for process {} here", hello.to);
            Answer::NotMe(self.cluster.index)
        } else if self.is_taken(&hello) {
            Answer::Taken
        } else {
            Answer::Welcome
        };
        let told = timeout(WRITE_PATIENCE, wire::write(&mut stream, &answer)).await;
        match answer {
            // Both sides end with an error, since neither could run without the other.
            Answer::Differs(_) => Err(StreamsError::Disagreement {
                difference: difference.unwrap_or_default(),
            }),
            Answer::Welcome if matches!(told, Ok(Ok(()))) => {
                // Without this option each window is delayed by some milliseconds. Nothing else fails without it.
                let _ = stream.set_nodelay(true);
                self.place(hello.process, hello.purpose, stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn expects(&self, hello: &Hello) -> bool {
        let dials_us = (self.cluster.index + 1..self.cluster.hosts.len()).contains(&hello.process);
        dials_us && (hello.purpose == Purpose::Data || self.leads())
    }

    fn is_taken(&self, hello: &Hello) -> bool {
        let place = &self.places[hello.process];
        match hello.purpose {
            Purpose::Data => place
                .data
                .as_ref()
                .is_some_and(|data| state(data) != State::Ended),
            Purpose::Control => place.control.is_some(),
        }
    }

    fn place(&mut self, process: usize, purpose: Purpose, stream: TcpStream) {
        let place = &mut self.places[process];
        place.why = None;
        match purpose {
            Purpose::Data => {
                watch(&stream);
                place.data = Some(stream);
            }
            Purpose::Control => {
                self.connections += 1;
                let (reader, writer) = stream.into_split();
                let reading = read(reader, process, self.connections, self.events.clone());
                place.ready = false;
                place.control = Some(Control {
                    writer,
                    reading: tokio::spawn(reading),
                    number: self.connections,
                    heard: Instant::now(),
                });
            }
        }
    }

    /// Completes the group if all processes are connected.
    async fn get_ready(&mut self) {
        if !matches!(self.phase, Phase::Joining { .. }) {
            return;
        }
        // If there are bytes on a connection, it belongs to a group that began without this process, and is dropped.
        let quiet = |process: usize| {
            let data = self.places[process].data.as_ref();
            data.is_some_and(|data| state(data) == State::Quiet)
        };
        let connected = self.others().all(quiet)
            && self
                .conversing()
                .all(|process| self.places[process].control.is_some());
        let ready = !self.leads() || self.others().all(|process| self.places[process].ready);
        if connected && ready {
            self.phase = Phase::Complete;
            if self.leads() {
                tracing::info!(
                    processes = self.cluster.hosts.len(),
                    "the cluster is complete"
                );
                // Fails only if the run has ended.
                let _ = self.news.try_send(News::Complete);
            } else {
                self.tell_all(&Word::Ready).await;
            }
        }
    }

    /// Begins the run of the group: process 0 has read the progress.
    async fn begin_all(&mut self, beginning: SharedBeginning) -> Result<Next, StreamsError> {
        if self.phase == Phase::Complete {
            self.tell_all(&Word::Begin(beginning.clone())).await;
            self.run(beginning)?;
        }
        Ok(Next::GoOn)
    }

    fn run(&mut self, beginning: SharedBeginning) -> Result<(), StreamsError> {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
        let own = self.cluster.index;
        let mut sockets = Vec::with_capacity(self.places.len());
        for (process, place) in self.places.iter_mut().enumerate() {
            let socket = place.data.take().map(TcpStream::into_std).transpose();
            match socket {
                Ok(None) if process != own => {
                    return Err(self.lost_peer(process, "it left before the beginning"));
                }
                Ok(socket) => sockets.push(socket),
                Err(error) => return Err(self.lost_peer(process, &error.to_string())),
            }
        }
        self.phase = Phase::Running;
        // Fails only if the run has ended.
        let _ = self.news.try_send(News::Begin(beginning, sockets));
        Ok(())
    }

    async fn hear(&mut self, process: usize, word: Word) -> Result<Next, StreamsError> {
        match word {
            Word::Heartbeat => {}
            Word::Ready => self.places[process].ready = true,
            Word::StandingBy(active) => {
                // Fails only if the run has ended.
                let _ = self.news.try_send(News::StandingBy(active));
            }
            Word::Begin(beginning) => self.run(beginning)?,
            Word::Dissolve => {
                let peer = self.cluster.name(process);
                self.stop.fail(StreamsError::Dissolved { peer });
                self.phase = Phase::Draining {
                    since: Instant::now(),
                };
                self.tell_all(&Word::Draining).await;
            }
            // The group is not complete: that process leaves alone, and another one can join in its place.
            Word::AskedToStop if matches!(self.phase, Phase::Joining { .. }) => {
                self.forget(process);
            }
            Word::AskedToStop => return Ok(self.drain().await),
            Word::Drain => {
                self.phase = Phase::Draining {
                    since: Instant::now(),
                };
                self.stop.request();
                self.tell_all(&Word::Draining).await;
            }
            Word::Draining => {
                self.places[process].draining = true;
                return Ok(self.say_bye().await);
            }
            Word::Bye => return Ok(Next::Leave),
            Word::Failed {
                exit_code,
                sentence,
            } => {
                if self.forms() && !self.leads() && WILL_NOT_HELP.contains(&exit_code) {
                    return Err(StreamsError::PeerRefuses {
                        peer: self.cluster.name(process),
                        why: sentence,
                        exit_code,
                    });
                }
                return self.lost(process, &sentence).await;
            }
        }
        Ok(Next::GoOn)
    }

    /// Checks for a requested stop, for silent processes, and for timeouts.
    async fn look(&mut self) -> Result<Next, StreamsError> {
        let failure = self.stop.why_failed();
        if failure.as_ref().is_some_and(StreamsError::dissolves) {
            return Ok(self.dissolve().await);
        }
        if self.tell_failure().await {
            return Ok(Next::Leave);
        }
        let now = Instant::now();
        let silent = |process: &usize| {
            let control = self.places[*process].control.as_ref();
            control.is_some_and(|control| now - control.heard > SILENCE)
        };
        if let Some(process) = self.conversing().find(silent) {
            let why = format!("it has said nothing for {SILENCE:?}; it is frozen or cut off");
            return self.lost(process, &why).await;
        }
        match self.phase {
            Phase::Draining { since } if since.elapsed() > DRAIN_PATIENCE => {
                tracing::warn!("not every process has heard of the stop in time");
                Ok(Next::Leave)
            }
            Phase::Draining { .. } => Ok(Next::GoOn),
            _ if self.stop.is_requested() => Ok(self.drain().await),
            Phase::Joining { since } => self.look_around(since),
            Phase::Complete => {
                self.forget_lost_data();
                Ok(Next::GoOn)
            }
            Phase::Running => Ok(Next::GoOn),
        }
    }

    /// Reports the failure of this process to the others. Returns whether it has failed.
    async fn tell_failure(&mut self) -> bool {
        let Some(failure) = self.stop.why_failed() else {
            return false;
        };
        let word = Word::Failed {
            exit_code: failure.exit_code(),
            sentence: match &failure {
                // Without the advice in the message: each process logs its own.
                StreamsError::PeerLost { peer, why } => format!("{peer} was lost: {why}"),
                other => other.to_string(),
            },
        };
        self.tell_all(&word).await;
        true
    }

    /// Checks the connections while the group forms, and its timeout.
    fn look_around(&mut self, since: Instant) -> Result<Next, StreamsError> {
        self.forget_lost_data();
        let patience = self.cluster.join_timeout;
        if since.elapsed() >= patience {
            let missing = self.missing();
            return Err(StreamsError::Incomplete { missing, patience });
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::info!("waiting for {}", self.missing());
        }
        Ok(Next::GoOn)
    }

    /// Returns the names of the processes that the group waits for, each with the reason if it is known.
    fn missing(&self) -> String {
        let absent = |process: &usize| {
            let place = &self.places[*process];
            let converses = self.leads() || *process == 0;
            place.data.is_none() || converses && place.control.is_none()
        };
        let mut missing: Vec<usize> = self.others().filter(absent).collect();
        if missing.is_empty() {
            // All are connected to this process, but some of them are not connected to each other.
            let waits = |process: &usize| !self.places[*process].ready;
            missing = self.others().filter(waits).collect();
        }
        let name = |process: usize| match &self.places[process].why {
            Some(why) => format!("{} ({why})", self.cluster.name(process)),
            None => self.cluster.name(process),
        };
        let missing: Vec<String> = missing.into_iter().map(name).collect();
        missing.join(", ")
    }

    /// Drops data connections that have ended. Before the group begins no process sends data, so a connection with
    /// something to read has ended. The exception is a process that waits for `Begin`: the others may have begun
    /// already.
    fn forget_lost_data(&mut self) {
        let forms = matches!(self.phase, Phase::Joining { .. });
        for process in self.others() {
            let lost = match self.places[process].data.as_ref().map(state) {
                Some(State::Ended) => true,
                // That process has begun without this one. If it has ended since, its data hides that.
                Some(State::Speaks) => forms,
                Some(State::Quiet) | None => false,
            };
            if lost {
                self.forget_connection(process, Purpose::Data);
            }
        }
    }

    /// Drops the connections of a process that has left the forming group. They might never end by themselves, and a
    /// process that replaces it would be rejected as a duplicate.
    fn forget(&mut self, process: usize) {
        self.forget_connection(process, Purpose::Control);
        if self.places[process].data.is_some() {
            self.forget_connection(process, Purpose::Data);
        }
    }

    /// Drops a connection of the forming group that has ended. The process that opened it connects again.
    fn forget_connection(&mut self, process: usize, purpose: Purpose) {
        let place = &mut self.places[process];
        match purpose {
            Purpose::Data => place.data = None,
            Purpose::Control => place.control = None,
        }
        place.ready = false;
        tracing::warn!(
            "{} left while the cluster forms: its {purpose:?} connection",
            self.cluster.name(process)
        );
        if process < self.cluster.index {
            self.dial(process, purpose);
        }
        if self.phase == Phase::Complete && !self.leads() {
            self.phase = Phase::Joining {
                since: Instant::now(),
            };
            // Fails only if the run has ended.
            let _ = self.news.try_send(News::Incomplete);
        }
    }

    /// Handles the end or the silence of a control connection.
    async fn lost(&mut self, process: usize, why: &str) -> Result<Next, StreamsError> {
        match self.phase {
            Phase::Joining { .. } => self.forget(process),
            Phase::Complete if !self.leads() => self.forget(process),
            Phase::Complete | Phase::Running => return Err(self.lost_peer(process, why)),
            // Process 0 closes its connections once all processes have confirmed.
            Phase::Draining { .. } if !self.leads() => return Ok(Next::Leave),
            Phase::Draining { .. } => {
                let place = &mut self.places[process];
                place.control = None;
                place.draining = true;
                return Ok(self.say_bye().await);
            }
        }
        Ok(Next::GoOn)
    }

    fn lost_peer(&self, process: usize, why: &str) -> StreamsError {
        StreamsError::PeerLost {
            peer: self.cluster.name(process),
            why: why.to_owned(),
        }
    }

    /// Drains the group: a stop was requested from this process or from another one, which has notified this one.
    async fn drain(&mut self) -> Next {
        if matches!(self.phase, Phase::Joining { .. }) {
            return Next::Leave;
        }
        if matches!(self.phase, Phase::Draining { .. }) {
            return Next::GoOn;
        }
        self.phase = Phase::Draining {
            since: Instant::now(),
        };
        if !self.leads() {
            self.tell_all(&Word::AskedToStop).await;
            return Next::GoOn;
        }
        self.stop.request();
        self.tell_all(&Word::Drain).await;
        self.say_bye().await
    }

    /// Drains the group because another run has fenced it. Its processes join again afterwards.
    async fn dissolve(&mut self) -> Next {
        match self.phase {
            Phase::Joining { .. } => Next::Leave,
            Phase::Draining { since } if since.elapsed() > DRAIN_PATIENCE => {
                tracing::warn!(
                    "some processes did not confirm in time that another run has taken over"
                );
                Next::Leave
            }
            Phase::Draining { .. } => Next::GoOn,
            Phase::Complete | Phase::Running => {
                self.phase = Phase::Draining {
                    since: Instant::now(),
                };
                self.tell_all(&Word::Dissolve).await;
                self.say_bye().await
            }
        }
    }

    /// Notifies the other processes, on process 0, that connections may close, once all have confirmed the drain.
    async fn say_bye(&mut self) -> Next {
        if !self.others().all(|process| self.places[process].draining) {
            return Next::GoOn;
        }
        self.tell_all(&Word::Bye).await;
        Next::Leave
    }

    async fn tell_all(&mut self, word: &Word) {
        for process in self.conversing() {
            if let Some(control) = &mut self.places[process].control {
                // If the connection has ended, the task that reads it reports that.
                let _ = timeout(WRITE_PATIENCE, wire::write(&mut control.writer, word)).await;
            }
        }
    }
}

/// Reads a control connection to its end.
async fn read(mut reader: OwnedReadHalf, process: usize, since: u64, events: mpsc::Sender<Event>) {
    loop {
        let word = wire::read(&mut reader, CONTROL_BYTES).await;
        let ended = word.is_err();
        let said = Event::Said {
            process,
            since,
            word,
        };
        if events.send(said).await.is_err() || ended {
            return;
        }
    }
}

fn closed(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "its connection was closed".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What can be read from a data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Quiet,
    Speaks,
    Ended,
}

fn state(stream: &TcpStream) -> State {
    match stream.peek(&mut [0]).now_or_never() {
        Some(Ok(0) | Err(_)) => State::Ended,
        Some(Ok(_)) => State::Speaks,
        None => State::Quiet,
    }
}

/// Enables TCP keepalive and a user timeout. Only process 0 exchanges heartbeats with the others. So a lost network
/// path between two other processes shows only on their data connection, and without these options only after a quarter
/// of an hour.
fn watch(data: &TcpStream) {
    let socket = SockRef::from(data);
    let alive = TcpKeepalive::new()
        .with_time(SILENCE)
        .with_interval(SILENCE / 5)
        .with_retries(5);
    let mut watched = socket.set_tcp_keepalive(&alive);
    #[cfg(target_os = "linux")]
    {
        watched = watched.and(socket.set_tcp_user_timeout(Some(2 * SILENCE)));
    }
    if let Err(error) = watched {
        tracing::warn!("a connection to a peer is not watched ({error})");
    }
}
