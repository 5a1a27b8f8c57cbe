//! The event loop of a process in its group: it owns the sockets, feeds events to the [`Coordinator`], and executes the
//! actions.
//!
//! ```text
//!  tasks of connections ── events ──▶ ┌───────────┐ ── event, now ──▶ ┌─────────────┐
//!  run ────────────────── requests ─▶ │ EventLoop │                   │ Coordinator │
//!  timer ──────────────── ticks ────▶ └───────────┘ ◀─── actions ──── └─────────────┘
//! ```

#![allow(
    clippy::disallowed_methods,
    reason = "the coordinator gets the time from here"
)]

use std::{
    collections::VecDeque,
    io,
    net::TcpStream as StdTcpStream,
    sync::{Arc, mpsc::SyncSender},
    time::{Duration, Instant},
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
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    config::{Cluster, PEER_TIMEOUT},
    coordinator::{
        Action, Connection, Coordinator, CoordinatorEvent, CoordinatorRequest, DataState, Event,
    },
    handshake::{ClusterSettings, Handshake, HandshakeReply},
    join::{self, ConnectionEvent, EVENT_QUEUE},
    wire::{self, CONTROL_BYTES, Purpose},
};
use crate::{Stop, StreamsError};

/// Interval of the ticks, at which the coordinator checks for a requested stop and for silent processes.
const TICK: Duration = Duration::from_millis(50);

/// Timeout for writing a message. A message is short and usually fits into the buffer of the socket. If it does not,
/// the peer is frozen.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// An event for the run. `Begin` comes with the data connections, by process. Other events come with an empty list.
pub type Report = (CoordinatorEvent, Vec<Option<StdTcpStream>>);

/// Runs the event loop until this process has left its group. Blocks.
pub fn run(
    cluster: Arc<Cluster>,
    settings: ClusterSettings,
    stop: &Stop,
    reports: SyncSender<Report>,
    requests: mpsc::Receiver<CoordinatorRequest>,
) -> Result<(), StreamsError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            StreamsError::Worker(format!("the cluster's thread cannot start: {error}"))
        })?;
    let outcome = runtime.block_on(async {
        let begun = Instant::now();
        let Some(listener) = join::bind(&cluster, stop).await? else {
            return Ok(());
        };
        let (events, received) = mpsc::channel(EVENT_QUEUE);
        let mut event_loop = EventLoop {
            coordinator: Coordinator::new(cluster.clone(), settings.clone(), begun),
            listening: tokio::spawn(join::listen(listener, events.clone())),
            stop: stop.clone(),
            reports,
            events,
            stream: None,
            data: cluster.hosts.iter().map(|_| None).collect(),
            control: cluster.hosts.iter().map(|_| None).collect(),
            cluster,
            settings,
        };
        event_loop.run(received, requests).await;
        Ok(())
    });
    // The runtime is shut down in the background, since dropping it would wait for a DNS lookup in progress.
    runtime.shutdown_background();
    outcome
}

/// A control connection.
struct Control {
    writer: OwnedWriteHalf,
    reading: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

struct EventLoop {
    coordinator: Coordinator,
    cluster: Arc<Cluster>,
    settings: ClusterSettings,
    stop: Stop,
    reports: SyncSender<Report>,
    /// The sender of events, for the tasks of connections.
    events: mpsc::Sender<ConnectionEvent>,
    listening: JoinHandle<()>,
    /// The connection of the current event, until the coordinator registers it.
    stream: Option<TcpStream>,
    /// The data connections, by process.
    data: Vec<Option<TcpStream>>,
    /// The control connections, by process.
    control: Vec<Option<Control>>,
}

impl EventLoop {
    async fn run(
        &mut self,
        mut received: mpsc::Receiver<ConnectionEvent>,
        mut requests: mpsc::Receiver<CoordinatorRequest>,
    ) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next = (Event::Started, None);
        loop {
            let (event, stream) = next;
            self.stream = stream;
            // The coordinator gets the states of the data connections twice: before an event, to decide about it, and
            // after the event, to detect that the group is complete.
            if self.feed(Some(event)).await || self.feed(None).await {
                return;
            }
            next = tokio::select! {
                Some(event) = received.recv() => event,
                Some(request) = requests.recv() => (Event::Requested(request), None),
                _ = tick.tick() => (self.tick(), None),
            };
        }
    }

    /// Passes the states of the data connections to the coordinator, then an event. Returns whether this process has
    /// left the group.
    async fn feed(&mut self, event: Option<Event>) -> bool {
        let states = Event::DataStates(self.data_states());
        let mut events: VecDeque<Event> = [states].into_iter().chain(event).collect();
        while let Some(event) = events.pop_front() {
            for action in self.coordinator.on(event, Instant::now()) {
                if matches!(action, Action::Exit) {
                    return true;
                }
                events.extend(self.execute(action).await);
            }
        }
        false
    }

    /// Executes an action. Returns the event that follows from it at once.
    async fn execute(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Dial(Connection { process, purpose }) => {
                let handshake = Handshake {
                    process: self.cluster.index,
                    to: process,
                    purpose,
                    token: self.cluster.token.clone(),
                    settings: self.settings.clone(),
                };
                let dial = join::dial(self.cluster.clone(), handshake, self.events.clone());
                tokio::spawn(dial);
            }
            Action::Reply(connection, reply) => {
                let stream = self.stream.as_mut()?;
                let written = timeout(WRITE_TIMEOUT, wire::write(stream, &reply)).await;
                if reply == HandshakeReply::Accepted && matches!(written, Ok(Ok(()))) {
                    // An error is ignored: without this option each window is delayed by some milliseconds, but nothing
                    // else changes.
                    let _ = stream.set_nodelay(true);
                    return Some(Event::Connected(connection));
                }
            }
            Action::Register(connection, number) => self.register(connection, number),
            Action::Close(Connection { process, purpose }) => match purpose {
                Purpose::Data => self.data[process] = None,
                Purpose::Control => self.control[process] = None,
            },
            Action::Send(message) => {
                for control in self.control.iter_mut().flatten() {
                    // An error is ignored: if the connection has ended, the task that reads it reports the end.
                    let write = wire::write(&mut control.writer, &message);
                    let _ = timeout(WRITE_TIMEOUT, write).await;
                }
            }
            Action::Report(event) => {
                let sockets = match event {
                    CoordinatorEvent::Begin(_) => match self.hand_over() {
                        Ok(sockets) => sockets,
                        Err(error) => return Some(Event::Failed(error)),
                    },
                    _ => Vec::new(),
                };
                // The send fails only if the run has ended.
                let _ = self.reports.try_send((event, sockets));
            }
            Action::RequestStop => self.stop.request(),
            // The error is recorded before this thread ends, so that the run finds it.
            Action::Fail(error) => {
                self.stop.fail(error);
                return Some(self.tick());
            }
            Action::Exit => {}
        }
        None
    }

    fn register(&mut self, Connection { process, purpose }: Connection, number: u64) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        match purpose {
            Purpose::Data => {
                enable_keepalive(&stream);
                self.data[process] = Some(stream);
            }
            Purpose::Control => {
                let (reader, writer) = stream.into_split();
                let reading = read(reader, process, number, self.events.clone());
                self.control[process] = Some(Control {
                    writer,
                    reading: tokio::spawn(reading),
                });
            }
        }
    }

    /// Returns the data connections for the run, and closes the listener.
    fn hand_over(&mut self) -> Result<Vec<Option<StdTcpStream>>, StreamsError> {
        self.listening.abort();
        let into_std = |(process, data): (usize, &mut Option<TcpStream>)| {
            let socket = data.take().map(TcpStream::into_std).transpose();
            socket.map_err(|error| StreamsError::PeerLost {
                peer: self.cluster.name(process),
                why: error.to_string(),
            })
        };
        self.data.iter_mut().enumerate().map(into_std).collect()
    }

    fn tick(&self) -> Event {
        Event::Tick {
            stop_requested: self.stop.is_requested(),
            failure: self.stop.why_failed(),
        }
    }

    fn data_states(&self) -> Vec<Option<DataState>> {
        let data = self.data.iter();
        data.map(|data| data.as_ref().map(state)).collect()
    }
}

/// Reads a control connection to its end.
async fn read(
    mut reader: OwnedReadHalf,
    process: usize,
    number: u64,
    events: mpsc::Sender<ConnectionEvent>,
) {
    loop {
        let message = wire::read(&mut reader, CONTROL_BYTES).await;
        let ended = message.is_err();
        let received = Event::Received {
            process,
            number,
            message: message.map_err(|error| closed(&error)),
        };
        if events.send((received, None)).await.is_err() || ended {
            return;
        }
    }
}

fn closed(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            "the connection to the process was closed".to_owned()
        }
        _ => error.to_string(),
    }
}

fn state(stream: &TcpStream) -> DataState {
    match stream.peek(&mut [0]).now_or_never() {
        Some(Ok(0) | Err(_)) => DataState::Closed,
        Some(Ok(_)) => DataState::Readable,
        None => DataState::Idle,
    }
}

/// Enables TCP keepalive and the TCP user timeout. Only process 0 exchanges heartbeats with the others, so a broken
/// network path between two other processes is detected only by their data connection. Without these options TCP would
/// need a quarter of an hour for that.
fn enable_keepalive(data: &TcpStream) {
    let socket = SockRef::from(data);
    let keepalive = TcpKeepalive::new()
        .with_time(PEER_TIMEOUT)
        .with_interval(PEER_TIMEOUT / 5)
        .with_retries(5);
    let mut enabled = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    {
        enabled = enabled.and(socket.set_tcp_user_timeout(Some(2 * PEER_TIMEOUT)));
    }
    if let Err(error) = enabled {
        tracing::warn!("TCP keepalive cannot be enabled on a connection to a peer ({error})");
    }
}
