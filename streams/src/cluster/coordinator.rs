//! The state machine of a process in its group, from the first dial to the shutdown, without IO.
//!
//! ```text
//!            all connected                  process 0: begin       stop requested
//!  Joining ───────────────────▶ Complete ─────────────────▶ Running ─────────▶ Draining ─▶ exit
//!     ▲    a connection is lost    │                           │ a process is lost
//!     └────────────────────────────┘                           └─────────────▶ Failed ───▶ exit
//! ```
//!
//! While process 0 stands by, the group is complete and the other processes wait for its message `Begin`. When another
//! run has fenced a running group, process 0 drains the group as for a stop. The processes then do not end, but join
//! again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    config::{Cluster, HEARTBEAT, PEER_TIMEOUT},
    handshake::{ClusterSettings, Handshake, HandshakeReply, same_token},
    wire::{ControlMessage, Purpose, SharedBeginning},
};
use crate::StreamsError;

/// Maximum time for which a drain waits for the confirmations of all processes. It is shorter than the ten seconds that
/// a process has for its shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval at which a process logs which other processes it waits for. The first line is logged at once.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Exit codes of errors that a restart does not fix. If process 0 ends with one of them, all processes end.
const PERMANENT_EXIT_CODES: [u8; 2] = [64, 78];

/// A connection to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    pub process: usize,
    pub purpose: Purpose,
}

/// An input of the state machine.
#[derive(Debug, Clone)]
pub enum Event {
    /// This process listens on its address.
    Started,
    /// Another process has connected and sent its handshake.
    Incoming(Handshake),
    /// The handshake of a connection is complete, and the listening process has accepted the connection. It does not
    /// matter which of the two processes has dialled.
    Connected(Connection),
    /// A process that this one dials does not answer yet.
    Unreachable { process: usize, why: String },
    /// An error that a retry does not fix, for example a rejection by a process that this one has dialled.
    Failed(StreamsError),
    /// A message arrived on a control connection, or the connection ended; then the reason is given. `number`
    /// distinguishes the connection from earlier ones to the same process.
    Received {
        process: usize,
        number: u64,
        message: Result<ControlMessage, String>,
    },
    /// The states of all data connections, by process. The event loop sends this event before and after each other
    /// event.
    DataStates(Vec<Option<DataState>>),
    /// A request that the run on process 0 has made.
    Requested(CoordinatorRequest),
    /// Some time has passed. Contains whether a stop is requested, and the error with which the run has failed.
    Tick {
        stop_requested: bool,
        failure: Option<StreamsError>,
    },
}

/// The run on process 0 requests that this message is sent to the other processes.
#[derive(Debug, Clone)]
pub enum CoordinatorRequest {
    /// Process 0 stands by; contains the name of the active run.
    StandBy(String),
    /// The run begins from this state.
    Begin(SharedBeginning),
}

/// An output of the state machine. The actions of one event are executed in their order.
#[derive(Debug)]
pub enum Action {
    /// Connect to a process, with retries. The outcome arrives as an event.
    Dial(Connection),
    /// Send the reply to the incoming handshake. If the reply accepts the connection, the event `Connected` must follow
    /// at once.
    Reply(Connection, HandshakeReply),
    /// Keep the connection of the current event under this number, which distinguishes the connection from earlier ones
    /// to the same process.
    Register(Connection, u64),
    /// Close a connection.
    Close(Connection),
    /// Send a message on all control connections.
    Send(ControlMessage),
    /// Report an event to the run.
    Report(CoordinatorEvent),
    /// Stop the run.
    RequestStop,
    /// Stop the run because of an error. The event `Tick` must follow at once, and contain the first error of the run.
    Fail(StreamsError),
    /// Leave the group, and close all connections.
    Exit,
}

/// An event that is reported to the run.
#[derive(Debug)]
pub enum CoordinatorEvent {
    /// All processes are connected.
    Complete,
    /// Process 0 stands by; contains the name of the active run.
    StandingBy(String),
    /// A connection was lost, and the group is not complete any more.
    Incomplete,
    /// The run begins from this state. The report also contains the data connections.
    Begin(SharedBeginning),
}

/// Whether a data connection has bytes to read, or is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataState {
    /// There are no bytes to read.
    Idle,
    /// The connection has data to read: the other process has begun its run, and has sent these data.
    Readable,
    /// The connection has ended.
    Closed,
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
    /// This process ends with an error. The next tick reports it to the others.
    Failed,
}

/// The state of another process.
#[derive(Debug, Default)]
struct PeerState {
    data: Option<DataState>,
    control: Option<Control>,
    /// Whether the process has reported that it is connected to all others. Only process 0 records this.
    ready: bool,
    /// Whether the process has confirmed the drain. Only process 0 records this.
    draining: bool,
    /// The reason why the process cannot be reached, for messages.
    why: Option<String>,
}

/// A control connection.
#[derive(Debug)]
struct Control {
    /// The number that distinguishes messages of this connection from those of earlier connections to the same process.
    number: u64,
    last_received: Instant,
}

/// The state machine of a process in its group.
#[derive(Debug)]
pub struct Coordinator {
    cluster: Arc<Cluster>,
    settings: ClusterSettings,
    peers: Vec<PeerState>,
    phase: Phase,
    next_heartbeat: Instant,
    /// The time at which this process next logs which other processes it waits for.
    next_log: Instant,
    /// Number of registered connections so far.
    connections: u64,
    /// The actions of the current event.
    actions: Vec<Action>,
}

impl Coordinator {
    /// Creates the state of a process that has begun to join at `now`.
    pub fn new(cluster: Arc<Cluster>, settings: ClusterSettings, now: Instant) -> Coordinator {
        Coordinator {
            peers: (0..cluster.hosts.len())
                .map(|_| PeerState::default())
                .collect(),
            cluster,
            settings,
            phase: Phase::Joining { since: now },
            next_heartbeat: now,
            next_log: now,
            connections: 0,
            actions: Vec::new(),
        }
    }

    /// Applies an event, and returns the actions to execute.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if let Err(error) = self.apply(event, now) {
            self.phase = Phase::Failed;
            self.act(Action::Fail(error));
        }
        std::mem::take(&mut self.actions)
    }

    fn apply(&mut self, event: Event, now: Instant) -> Result<(), StreamsError> {
        match event {
            Event::Tick {
                stop_requested,
                failure,
            } => return self.tick(stop_requested, failure, now),
            Event::Started => {
                (0..self.cluster.index).for_each(|process| self.dial(process, Purpose::Data));
                if !self.leads() {
                    self.dial(0, Purpose::Control);
                }
            }
            Event::Incoming(handshake) if self.is_forming() => return self.reply(&handshake),
            Event::Connected(connection) if self.is_forming() => self.register(connection, now),
            // The connection was opened before the group began. It is ignored, since a running group accepts no
            // process.
            Event::Incoming(_) | Event::Connected(_) => {}
            Event::Unreachable { process, why } => self.peers[process].why = Some(why),
            Event::Failed(error) => return Err(error),
            Event::Received {
                process,
                number,
                message,
            } => {
                let control = self.peers[process].control.as_mut();
                // A message with another number is ignored, since the connection on which it arrived was closed in the
                // meantime.
                if let Some(control) = control.filter(|it| it.number == number) {
                    control.last_received = now;
                    return match message {
                        Ok(message) => self.receive(process, message, now),
                        Err(why) => self.lose(process, &why, now),
                    };
                }
            }
            Event::DataStates(states) => {
                for (peer, state) in self.peers.iter_mut().zip(states) {
                    peer.data = state;
                }
                self.try_complete();
            }
            Event::Requested(CoordinatorRequest::StandBy(active)) => {
                self.send(ControlMessage::StandingBy(active));
            }
            Event::Requested(CoordinatorRequest::Begin(beginning)) => {
                if self.phase == Phase::Complete {
                    self.send(ControlMessage::Begin(beginning.clone()));
                    return self.begin(beginning);
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn send(&mut self, message: ControlMessage) {
        self.act(Action::Send(message));
    }

    fn dial(&mut self, process: usize, purpose: Purpose) {
        self.act(Action::Dial(Connection { process, purpose }));
    }

    fn leads(&self) -> bool {
        self.cluster.index == 0
    }

    /// Whether the group has not begun yet.
    fn is_forming(&self) -> bool {
        matches!(self.phase, Phase::Joining { .. } | Phase::Complete)
    }

    fn is_joining(&self) -> bool {
        matches!(self.phase, Phase::Joining { .. })
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.cluster.index;
        (0..self.cluster.hosts.len()).filter(move |process| *process != own)
    }

    /// Returns the processes to which this process has a control connection: process 0 has one to each other process,
    /// and the others have one to process 0.
    fn controlled(&self) -> impl Iterator<Item = usize> + use<> {
        let leads = self.leads();
        self.others().filter(move |process| leads || *process == 0)
    }

    /// Replies to the handshake of a process that has connected to this one.
    fn reply(&mut self, handshake: &Handshake) -> Result<(), StreamsError> {
        let peer = self.cluster.name(handshake.process);
        let mut difference = None;
        let reply = if !same_token(&handshake.token, &self.cluster.token) {
            tracing::warn!(
                "the connection of {peer} was refused: it has another --cluster-token-file"
            );
            HandshakeReply::WrongToken
        } else if let Some(found) = self.settings.difference(&handshake.settings, &peer) {
            difference = Some(found);
            HandshakeReply::DifferentSettings(self.settings.clone())
        } else if handshake.to != self.cluster.index || !self.expects(handshake) {
            tracing::warn!(
                "{peer} has connected to this process, but wanted process {}",
                handshake.to
            );
            HandshakeReply::WrongIndex(self.cluster.index)
        } else if self.is_duplicate(handshake) {
            HandshakeReply::Duplicate
        } else {
            HandshakeReply::Accepted
        };
        let connection = Connection {
            process: handshake.process,
            purpose: handshake.purpose,
        };
        self.act(Action::Reply(connection, reply));
        // If the settings differ, both processes end with an error, since neither could run without the other.
        difference.map_or(Ok(()), |difference| {
            Err(StreamsError::Disagreement { difference })
        })
    }

    fn expects(&self, handshake: &Handshake) -> bool {
        let dials_us =
            (self.cluster.index + 1..self.cluster.hosts.len()).contains(&handshake.process);
        dials_us && (handshake.purpose == Purpose::Data || self.leads())
    }

    fn is_duplicate(&self, handshake: &Handshake) -> bool {
        let peer = &self.peers[handshake.process];
        match handshake.purpose {
            Purpose::Data => peer.data.is_some_and(|data| data != DataState::Closed),
            Purpose::Control => peer.control.is_some(),
        }
    }

    fn register(&mut self, connection: Connection, now: Instant) {
        self.connections += 1;
        let number = self.connections;
        let peer = &mut self.peers[connection.process];
        peer.why = None;
        match connection.purpose {
            Purpose::Data => peer.data = Some(DataState::Idle),
            Purpose::Control => {
                peer.control = Some(Control {
                    number,
                    last_received: now,
                });
            }
        }
        self.act(Action::Register(connection, number));
    }

    /// Completes the group if all processes are connected.
    fn try_complete(&mut self) {
        let is_connected = |process: usize| {
            let peer = &self.peers[process];
            // A connection with unread bytes belongs to a run that has begun without this process, so it does not count
            // as connected.
            peer.data == Some(DataState::Idle) && (peer.ready || !self.leads())
        };
        let connected = self.others().all(is_connected)
            && self
                .controlled()
                .all(|process| self.peers[process].control.is_some());
        if !self.is_joining() || !connected {
            return;
        }
        self.phase = Phase::Complete;
        if self.leads() {
            tracing::info!(
                processes = self.cluster.hosts.len(),
                "the cluster is complete"
            );
            self.act(Action::Report(CoordinatorEvent::Complete));
        } else {
            self.send(ControlMessage::Ready);
        }
    }

    /// Begins the run of the group, after process 0 has read the progress.
    fn begin(&mut self, beginning: SharedBeginning) -> Result<(), StreamsError> {
        let mut others = self.others();
        if let Some(process) = others.find(|process| self.peers[*process].data.is_none()) {
            return Err(self.lost_peer(process, "the process disconnected before the run began"));
        }
        self.phase = Phase::Running;
        self.act(Action::Report(CoordinatorEvent::Begin(beginning)));
        Ok(())
    }

    fn receive(
        &mut self,
        process: usize,
        message: ControlMessage,
        now: Instant,
    ) -> Result<(), StreamsError> {
        match message {
            ControlMessage::Heartbeat => {}
            ControlMessage::Ready => self.peers[process].ready = true,
            ControlMessage::StandingBy(active) => {
                self.act(Action::Report(CoordinatorEvent::StandingBy(active)));
            }
            ControlMessage::Begin(beginning) => return self.begin(beginning),
            ControlMessage::Dissolve => {
                let peer = self.cluster.name(process);
                self.confirm_drain(Action::Fail(StreamsError::Dissolved { peer }), now);
            }
            // While the group is not complete, a process that stops leaves without the others, and another process can
            // join in its place.
            ControlMessage::StopRequested if self.is_joining() => self.forget(process, now),
            ControlMessage::StopRequested => self.drain(false, now),
            ControlMessage::Drain => self.confirm_drain(Action::RequestStop, now),
            ControlMessage::DrainConfirmed => {
                self.peers[process].draining = true;
                self.close_when_drained();
            }
            ControlMessage::Close => self.act(Action::Exit),
            ControlMessage::Failed { exit_code, message }
                if self.is_forming()
                    && !self.leads()
                    && PERMANENT_EXIT_CODES.contains(&exit_code) =>
            {
                return Err(StreamsError::PeerRefuses {
                    peer: self.cluster.name(process),
                    why: message,
                    exit_code,
                });
            }
            ControlMessage::Failed { message, .. } => return self.lose(process, &message, now),
        }
        Ok(())
    }

    /// Sends a heartbeat when it is due, and checks for a failure, a requested stop, silent processes, and timeouts.
    fn tick(
        &mut self,
        stop_requested: bool,
        failure: Option<StreamsError>,
        now: Instant,
    ) -> Result<(), StreamsError> {
        let dissolves = failure.as_ref().is_some_and(StreamsError::dissolves);
        if let Some(failure) = failure
            && (self.phase == Phase::Failed || !dissolves)
        {
            self.send(failed(&failure));
            self.act(Action::Exit);
            return Ok(());
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + HEARTBEAT;
            self.send(ControlMessage::Heartbeat);
        }
        if let Phase::Draining { since } = self.phase
            && now - since > DRAIN_TIMEOUT
        {
            tracing::warn!("not all processes have confirmed in time that the run ends");
            self.act(Action::Exit);
            return Ok(());
        }
        if dissolves {
            self.drain(true, now);
            return Ok(());
        }
        let is_silent = |process: &usize| {
            let control = self.peers[*process].control.as_ref();
            control.is_some_and(|control| now - control.last_received > PEER_TIMEOUT)
        };
        if let Some(process) = self.controlled().find(is_silent) {
            let why = format!(
                "no message was received from it for {PEER_TIMEOUT:?}; it is frozen, or the network is down"
            );
            return self.lose(process, &why, now);
        }
        match self.phase {
            Phase::Draining { .. } | Phase::Failed => {}
            _ if stop_requested => self.drain(false, now),
            Phase::Joining { since } => return self.check_joining(since, now),
            Phase::Complete => self.forget_lost_data(now),
            Phase::Running => {}
        }
        Ok(())
    }

    /// Checks the connections and the join timeout while the group forms.
    fn check_joining(&mut self, since: Instant, now: Instant) -> Result<(), StreamsError> {
        self.forget_lost_data(now);
        let patience = self.cluster.join_timeout;
        if now - since >= patience {
            let missing = self.missing();
            return Err(StreamsError::Incomplete { missing, patience });
        }
        if now >= self.next_log {
            self.next_log = now + LOG_INTERVAL;
            tracing::info!("waiting for {}", self.missing());
        }
        Ok(())
    }

    /// Returns the names of the processes that the group waits for, each with the reason if it is known.
    fn missing(&self) -> String {
        let absent = |process: &usize| {
            let peer = &self.peers[*process];
            let controlled = self.leads() || *process == 0;
            peer.data.is_none() || controlled && peer.control.is_none()
        };
        let mut missing: Vec<usize> = self.others().filter(absent).collect();
        if missing.is_empty() {
            // All processes are connected to this one, but some of them are not connected to each other, so these are
            // returned.
            let waits = |process: &usize| !self.peers[*process].ready;
            missing = self.others().filter(waits).collect();
        }
        let name = |process: usize| match &self.peers[process].why {
            Some(why) => format!("{} ({why})", self.cluster.name(process)),
            None => self.cluster.name(process),
        };
        let missing: Vec<String> = missing.into_iter().map(name).collect();
        missing.join(", ")
    }

    /// Drops data connections that cannot be used any more. While this process joins, this includes connections with
    /// unread data, since no process sends data before its run begins. While this process waits for `Begin`, data is
    /// expected, since other processes may have begun the run already.
    fn forget_lost_data(&mut self, now: Instant) {
        let joining = self.is_joining();
        for process in self.others() {
            let lost = match self.peers[process].data {
                Some(DataState::Closed) => true,
                // The other process has begun a run without this one, so this connection cannot be used. It is dropped
                // even if it is open, since unread data would hide its end.
                Some(DataState::Readable) => joining,
                Some(DataState::Idle) | None => false,
            };
            if lost {
                self.forget_connection(process, Purpose::Data, now);
            }
        }
    }

    /// Drops the connections of a process that has left the forming group. Otherwise they might stay open, and a
    /// process that replaces the lost one would be rejected as a duplicate.
    fn forget(&mut self, process: usize, now: Instant) {
        self.forget_connection(process, Purpose::Control, now);
        if self.peers[process].data.is_some() {
            self.forget_connection(process, Purpose::Data, now);
        }
    }

    /// Drops a connection of the forming group that has ended. The process that dialled it dials again.
    fn forget_connection(&mut self, process: usize, purpose: Purpose, now: Instant) {
        self.close(process, purpose);
        self.peers[process].ready = false;
        tracing::warn!(
            "{} has closed its {purpose:?} connection before the cluster was complete",
            self.cluster.name(process)
        );
        if process < self.cluster.index {
            self.dial(process, purpose);
        }
        if self.phase == Phase::Complete && !self.leads() {
            self.phase = Phase::Joining { since: now };
            self.act(Action::Report(CoordinatorEvent::Incomplete));
        }
    }

    fn close(&mut self, process: usize, purpose: Purpose) {
        let peer = &mut self.peers[process];
        match purpose {
            Purpose::Data => peer.data = None,
            Purpose::Control => peer.control = None,
        }
        self.act(Action::Close(Connection { process, purpose }));
    }

    /// Handles a control connection that has ended, or on which no message has arrived for too long.
    fn lose(&mut self, process: usize, why: &str, now: Instant) -> Result<(), StreamsError> {
        match self.phase {
            Phase::Joining { .. } => self.forget(process, now),
            Phase::Complete if !self.leads() => self.forget(process, now),
            Phase::Complete | Phase::Running => return Err(self.lost_peer(process, why)),
            // During a drain, process 0 closes its connections once all processes have confirmed, so this process can
            // leave.
            Phase::Draining { .. } if !self.leads() => self.act(Action::Exit),
            Phase::Draining { .. } => {
                self.close(process, Purpose::Control);
                self.peers[process].draining = true;
                self.close_when_drained();
            }
            Phase::Failed => {}
        }
        Ok(())
    }

    fn lost_peer(&self, process: usize, why: &str) -> StreamsError {
        StreamsError::PeerLost {
            peer: self.cluster.name(process),
            why: why.to_owned(),
        }
    }

    /// Drains the group. The reason is a stop that was requested from one of its processes or, if `dissolves` is set,
    /// that another run has fenced the group. The processes of a fenced group join again afterwards.
    fn drain(&mut self, dissolves: bool, now: Instant) {
        match self.phase {
            Phase::Joining { .. } => self.act(Action::Exit),
            Phase::Draining { .. } | Phase::Failed => {}
            Phase::Complete | Phase::Running => {
                self.phase = Phase::Draining { since: now };
                if self.leads() {
                    self.act(Action::RequestStop);
                }
                self.send(match (dissolves, self.leads()) {
                    (true, _) => ControlMessage::Dissolve,
                    (false, true) => ControlMessage::Drain,
                    (false, false) => ControlMessage::StopRequested,
                });
                self.close_when_drained();
            }
        }
    }

    /// Confirms to process 0 that this process takes part in the drain, and executes `stop`, which stops the run.
    fn confirm_drain(&mut self, stop: Action, now: Instant) {
        self.phase = Phase::Draining { since: now };
        self.act(stop);
        self.send(ControlMessage::DrainConfirmed);
    }

    /// Once all other processes have confirmed the drain, notifies them that connections may close, and leaves. Only
    /// process 0 gets these confirmations.
    fn close_when_drained(&mut self) {
        if self.others().all(|process| self.peers[process].draining) {
            self.send(ControlMessage::Close);
            self.act(Action::Exit);
        }
    }
}

/// Returns the message by which a process reports the error with which it ends.
fn failed(failure: &StreamsError) -> ControlMessage {
    ControlMessage::Failed {
        exit_code: failure.exit_code(),
        message: match failure {
            // The message does not contain the advice of the error, since each process logs its own.
            StreamsError::PeerLost { peer, why } => format!("{peer} was lost: {why}"),
            other => other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
