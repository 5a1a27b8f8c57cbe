//! Tests of coordinators on a simulated network. The checks use only the connections and the reports, not the internal
//! states of the coordinators.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::VecDeque, iter};

use emostream_log::LogError;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::progress::record::Progress;

/// Interval of the ticks while processes run without delays.
const TICK: Duration = Duration::from_millis(50);

/// Maximum time from the loss of a process to the end of its group, as documented: the peer timeout, which is longer
/// than the drain timeout, plus some ticks.
const END_BOUND: Duration = Duration::from_millis(PEER_TIMEOUT.as_millis() as u64 + 500);

/// Maximum time within which processes that a supervisor restarts form a group. It is longer than the time after which
/// the connections to a host without power close.
const FORM_BOUND: Duration = Duration::from_secs(30);

/// Time after which TCP keepalive closes the connections to a host that has lost its power.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Timeout of a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection between two processes.
struct Link {
    /// The process that has dialled, and the one that listens.
    ends: [usize; 2],
    purpose: Purpose,
    closed: [bool; 2],
    /// The number of the connection at each end, once it is registered there.
    numbers: [Option<u64>; 2],
    /// The control messages that were sent to each end and are not read yet.
    in_flight: [VecDeque<Result<ControlMessage, String>>; 2],
    /// Whether the run at each end has written data.
    written: [bool; 2],
    /// The last state of the data connection that each end has observed.
    seen: [DataState; 2],
    /// Whether the process that has dialled has reported that it is ready.
    ready: bool,
}

/// An attempt to connect.
struct Dial {
    to: usize,
    purpose: Purpose,
    attempt: Option<(usize, Instant)>,
}

struct Process {
    index: usize,
    settings: ClusterSettings,
    coordinator: Coordinator,
    is_alive: bool,
    is_frozen: bool,
    /// The time at which the process became unreachable, because it was isolated or its host lost power; `None` if it
    /// is reachable.
    unreachable_since: Option<Instant>,
    stop_requested: bool,
    failure: Option<StreamsError>,
    /// The events that are not handled yet. Each has the index of the connection that it concerns, if there is one.
    inbox: VecDeque<(Event, Option<usize>)>,
    dials: Vec<Dial>,
    data: Vec<Option<usize>>,
    control: Vec<Option<usize>>,
    is_complete: bool,
    /// The identity of the run that has begun, and its data connections.
    run: Option<(u64, Vec<Option<usize>>)>,
}

struct Network {
    now: Instant,
    hosts: usize,
    processes: Vec<Process>,
    links: Vec<Link>,
}

fn settings(value: u8) -> ClusterSettings {
    ClusterSettings::new(vec![("--window".to_owned(), format!("{value}s"))])
}

impl Network {
    fn new(hosts: usize) -> Network {
        let mut network = Network {
            now: Instant::now(),
            hosts,
            processes: Vec::new(),
            links: Vec::new(),
        };
        (0..hosts).for_each(|index| network.start(index, settings(2), "secret"));
        network
    }

    /// Returns a network whose group runs.
    fn running_group(hosts: usize) -> Network {
        let mut network = Network::new(hosts);
        network.run(Duration::from_millis(500));
        assert!(network.is_whole(0));
        network
    }

    /// Returns a network whose group is complete and has not begun.
    fn complete_group(hosts: usize) -> Network {
        let mut network = Network::new(hosts);
        while !network.processes[0].is_complete {
            for id in 0..hosts {
                network.dial(id);
                while network.read(id, 0) || network.handle(id) {}
                network.tick(id);
            }
        }
        network
    }

    fn start(&mut self, index: usize, settings: ClusterSettings, token: &str) {
        let cluster = Arc::new(Cluster {
            hosts: (0..self.hosts).map(|it| format!("host-{it}")).collect(),
            index,
            join_timeout: Duration::from_secs(60),
            token: token.to_owned(),
        });
        self.processes.push(Process {
            index,
            coordinator: Coordinator::new(cluster, settings.clone(), self.now),
            settings,
            is_alive: true,
            is_frozen: false,
            unreachable_since: None,
            stop_requested: false,
            failure: None,
            inbox: VecDeque::from([(Event::Started, None)]),
            dials: Vec::new(),
            data: vec![None; self.hosts],
            control: vec![None; self.hosts],
            is_complete: false,
            run: None,
        });
    }

    fn is_active(&self, id: usize) -> bool {
        self.processes[id].is_alive && !self.processes[id].is_frozen
    }

    fn active(&self) -> Vec<usize> {
        let ids = 0..self.processes.len();
        ids.filter(|id| self.is_active(*id)).collect()
    }

    /// Returns the process with this index that was started last and has not ended, if there is one.
    fn newest(&self, index: usize) -> Option<usize> {
        let mut processes = self.processes.iter();
        processes.rposition(|it| it.is_alive && it.index == index)
    }

    fn end(&self, link: usize, id: usize) -> usize {
        usize::from(self.links[link].ends[1] == id)
    }

    fn other(&self, link: usize, id: usize) -> usize {
        self.links[link].ends[1 - self.end(link, id)]
    }

    fn passes(&self, link: usize) -> bool {
        let mut ends = self.links[link].ends.iter();
        ends.all(|id| self.processes[*id].unreachable_since.is_none())
    }

    fn close(&mut self, link: usize, id: usize) {
        let end = self.end(link, id);
        let link = &mut self.links[link];
        if !link.closed[end] {
            link.closed[end] = true;
            link.in_flight[1 - end]
                .push_back(Err("the connection to the process was closed".to_owned()));
        }
    }

    fn close_all(&mut self, id: usize) {
        self.processes[id].is_alive = false;
        let of = (0..self.links.len()).filter(|link| self.links[*link].ends.contains(&id));
        of.collect::<Vec<_>>()
            .into_iter()
            .for_each(|link| self.close(link, id));
    }

    /// Returns the state of a data connection that a process observes.
    fn state(&mut self, link: usize, id: usize) -> DataState {
        let (end, passes) = (self.end(link, id), self.passes(link));
        let mut ends = self.links[link].ends.iter();
        let lost = ends.any(|id| {
            let since = self.processes[*id].unreachable_since;
            since.is_some_and(|since| self.now > since + KEEPALIVE)
        });
        let link = &mut self.links[link];
        if (passes || lost) && link.seen[end] == DataState::Idle {
            link.seen[end] = match (link.written[1 - end], link.closed[1 - end] || lost) {
                (true, _) => DataState::Readable,
                (false, true) => DataState::Closed,
                (false, false) => DataState::Idle,
            };
        }
        link.seen[end]
    }

    /// Passes an event to the coordinator of a process, and the states of the data connections before and after the
    /// event, as the event loop does.
    fn feed(&mut self, id: usize, event: Event, link: Option<usize>) {
        for event in [Some(event), None] {
            let data = self.processes[id].data.clone();
            let states = data.into_iter().map(|it| it.map(|it| self.state(it, id)));
            let states = Event::DataStates(states.collect());
            let mut events: VecDeque<Event> = iter::once(states).chain(event).collect();
            while let Some(event) = events.pop_front() {
                let is_stale = self.is_stale(id, &event);
                let coordinator = &mut self.processes[id].coordinator;
                let before = is_stale.then(|| format!("{coordinator:?}"));
                let actions = coordinator.on(event, self.now);
                if let Some(before) = before {
                    assert!(actions.is_empty(), "{actions:?}");
                    assert_eq!(before, format!("{:?}", self.processes[id].coordinator));
                }
                for action in actions {
                    if matches!(action, Action::Exit) {
                        return self.close_all(id);
                    }
                    events.extend(self.execute(id, action, link));
                }
            }
        }
        if let Some(link) = link
            && self.links[link].numbers[self.end(link, id)].is_none()
        {
            self.close(link, id);
        }
    }

    /// Whether an event is a message that arrived on a connection which this process has closed.
    fn is_stale(&self, id: usize, event: &Event) -> bool {
        let Event::Received {
            process, number, ..
        } = event
        else {
            return false;
        };
        let current = self.processes[id].control[*process];
        current.and_then(|link| self.links[link].numbers[self.end(link, id)]) != Some(*number)
    }

    fn tick_event(&self, id: usize) -> Event {
        Event::Tick {
            stop_requested: self.processes[id].stop_requested,
            failure: self.processes[id].failure.clone(),
        }
    }

    fn execute(&mut self, id: usize, action: Action, link: Option<usize>) -> Option<Event> {
        let index = self.processes[id].index;
        match action {
            Action::Dial(Connection { process, purpose }) => self.processes[id].dials.push(Dial {
                to: process,
                purpose,
                attempt: None,
            }),
            Action::Reply(connection, reply) => {
                let link = link.unwrap();
                if !self.links[link].closed[0] {
                    self.deliver_reply(link, index, &reply);
                }
                if reply == HandshakeReply::Accepted {
                    let current = self.table(id, connection.purpose)[connection.process];
                    assert!(current.is_none_or(|link| {
                        self.links[link].seen[self.end(link, id)] == DataState::Closed
                    }));
                    return Some(Event::Connected(connection));
                }
            }
            Action::Register(Connection { process, purpose }, number) => {
                let (link, end) = (link.unwrap(), self.end(link.unwrap(), id));
                self.links[link].numbers[end] = Some(number);
                if let Some(former) = self.table(id, purpose)[process].replace(link) {
                    self.close(former, id);
                }
            }
            Action::Close(Connection { process, purpose }) => {
                let link = self.table(id, purpose)[process].take();
                self.close(link.unwrap(), id);
            }
            Action::Send(message) => self.send(id, &message),
            Action::Report(event) => self.report(id, event),
            Action::RequestStop => self.processes[id].stop_requested = true,
            Action::Fail(error) => {
                self.fail(id, error);
                return Some(self.tick_event(id));
            }
            Action::Exit => {}
        }
        None
    }

    fn table(&mut self, id: usize, purpose: Purpose) -> &mut Vec<Option<usize>> {
        match purpose {
            Purpose::Data => &mut self.processes[id].data,
            Purpose::Control => &mut self.processes[id].control,
        }
    }

    fn deliver_reply(&mut self, link: usize, process: usize, reply: &HandshakeReply) {
        let Link { ends, purpose, .. } = self.links[link];
        let event = match reply {
            HandshakeReply::Accepted => Event::Connected(Connection { process, purpose }),
            // The process that dials gets no event, since it retries.
            HandshakeReply::Duplicate => return,
            HandshakeReply::WrongToken => Event::Failed(StreamsError::WrongToken {
                peer: String::new(),
            }),
            HandshakeReply::WrongIndex(_) | HandshakeReply::DifferentSettings(_) => {
                let difference = String::new();
                Event::Failed(StreamsError::Disagreement { difference })
            }
        };
        let is_attempt = |dial: &Dial| dial.attempt.is_some_and(|(of, _)| of == link);
        let dialler = &mut self.processes[ends[0]];
        dialler.dials.retain(|dial| !is_attempt(dial));
        dialler.inbox.push_back((event, Some(link)));
    }

    fn fail(&mut self, id: usize, error: StreamsError) {
        self.processes[id].failure.get_or_insert(error);
        self.processes[id].stop_requested = true;
    }

    fn send(&mut self, id: usize, message: &ControlMessage) {
        if *message == ControlMessage::Ready {
            self.check_connected(id);
        }
        for link in self.processes[id].control.clone().into_iter().flatten() {
            let to = 1 - self.end(link, id);
            self.links[link].ready |= *message == ControlMessage::Ready;
            self.links[link].in_flight[to].push_back(Ok(message.clone()));
        }
    }

    /// Checks that a process is connected to exactly one process of each other index. These processes must have the
    /// same settings, and must have neither begun a run nor ended.
    fn check_connected(&self, id: usize) {
        let own = &self.processes[id];
        for index in (0..self.hosts).filter(|index| *index != own.index) {
            let data = own.data[index].unwrap();
            assert_eq!(self.links[data].seen[self.end(data, id)], DataState::Idle);
            let control = (own.index == 0 || index == 0).then(|| own.control[index].unwrap());
            for link in iter::once(data).chain(control) {
                let peer = &self.processes[self.other(link, id)];
                assert_eq!((peer.index, &peer.settings), (index, &own.settings));
            }
            assert!(control.is_none_or(|link| own.index > 0 || self.links[link].ready));
        }
    }

    fn report(&mut self, id: usize, event: CoordinatorEvent) {
        match event {
            CoordinatorEvent::Complete => {
                self.check_connected(id);
                self.processes[id].is_complete = true;
            }
            CoordinatorEvent::StandingBy(_) | CoordinatorEvent::Incomplete => {}
            CoordinatorEvent::Begin(beginning) => {
                let data = std::mem::replace(&mut self.processes[id].data, vec![None; self.hosts]);
                for link in data.iter().flatten() {
                    let end = self.end(*link, id);
                    self.links[*link].written[end] = true;
                }
                self.processes[id].run = Some((beginning.final_until_ms, data));
            }
        }
    }

    /// Lets a process dial the processes that it waits for.
    fn dial(&mut self, id: usize) {
        let mut dials = std::mem::take(&mut self.processes[id].dials);
        for dial in &mut dials {
            if let Some((link, since)) = dial.attempt
                && (self.links[link].closed[1] || self.now > since + HANDSHAKE)
            {
                self.close(link, id);
                dial.attempt = None;
                let (process, why) = (dial.to, "no response".to_owned());
                let unreachable = Event::Unreachable { process, why };
                self.processes[id].inbox.push_back((unreachable, None));
            }
            let listening = self.newest(dial.to).filter(|to| {
                let mut ends = [*to, id].into_iter();
                let passes = ends.all(|id| self.processes[id].unreachable_since.is_none());
                self.processes[*to].run.is_none() && passes
            });
            if let (None, Some(to)) = (dial.attempt, listening) {
                dial.attempt = Some((self.links.len(), self.now));
                self.connect(id, to, dial.purpose);
            }
        }
        self.processes[id].dials.append(&mut dials);
    }

    fn connect(&mut self, id: usize, to: usize, purpose: Purpose) {
        let handshake = Handshake {
            process: self.processes[id].index,
            to: self.processes[to].index,
            purpose,
            token: self.processes[id].coordinator.cluster.token.clone(),
            settings: self.processes[id].settings.clone(),
        };
        let incoming = (Event::Incoming(handshake), Some(self.links.len()));
        self.processes[to].inbox.push_back(incoming);
        self.links.push(Link {
            ends: [id, to],
            purpose,
            closed: [false; 2],
            numbers: [None; 2],
            in_flight: [VecDeque::new(), VecDeque::new()],
            written: [false; 2],
            seen: [DataState::Idle; 2],
            ready: false,
        });
    }

    /// Moves a message from one of the control connections into the inbox. Returns whether there was a message.
    fn read(&mut self, id: usize, pick: usize) -> bool {
        let control = self.processes[id].control.clone();
        let arrived = |link: &usize| {
            !self.links[*link].in_flight[self.end(*link, id)].is_empty() && self.passes(*link)
        };
        let links: Vec<usize> = control.into_iter().flatten().filter(arrived).collect();
        let Some(link) = links.get(pick % links.len().max(1)).copied() else {
            return false;
        };
        let (end, process) = (
            self.end(link, id),
            self.processes[self.other(link, id)].index,
        );
        let received = Event::Received {
            process,
            number: self.links[link].numbers[end].unwrap(),
            message: self.links[link].in_flight[end].pop_front().unwrap(),
        };
        self.processes[id].inbox.push_back((received, None));
        true
    }

    /// Handles the first event of the inbox. Returns whether there was an event.
    fn handle(&mut self, id: usize) -> bool {
        let event = self.processes[id].inbox.pop_front();
        event.is_some_and(|(event, link)| {
            self.feed(id, event, link);
            true
        })
    }

    /// Passes a tick to the coordinator of a process. If a data connection of the run has ended, the run fails first,
    /// as it does when timely's network threads detect the end.
    fn tick(&mut self, id: usize) {
        let run = self.processes[id].run.clone();
        for link in run.iter().flat_map(|(_, data)| data.iter().flatten()) {
            let is_closed = self.links[*link].closed[1 - self.end(*link, id)];
            if is_closed && self.passes(*link) && !self.processes[id].stop_requested {
                let index = self.processes[self.other(*link, id)].index;
                let peer = self.processes[id].coordinator.cluster.name(index);
                let why = "the connection to the process was closed".to_owned();
                self.fail(id, StreamsError::PeerLost { peer, why });
            }
        }
        let tick = self.tick_event(id);
        self.feed(id, tick, None);
    }

    /// Runs the processes without delays. Process 0 begins the run once the group is complete.
    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            for id in self.active() {
                self.dial(id);
                self.begin(id);
            }
            while self.step_all() {}
            for id in self.active() {
                self.tick(id);
            }
            self.now += TICK;
        }
    }

    /// Lets each process read a message or handle an event. Returns whether any process did so.
    fn step_all(&mut self) -> bool {
        let mut is_any = false;
        for id in self.active() {
            is_any |= self.read(id, 0) || self.handle(id);
        }
        is_any
    }

    fn begin(&mut self, id: usize) {
        let is_complete = std::mem::take(&mut self.processes[id].is_complete);
        if is_complete && !self.processes[id].stop_requested {
            let progress = Progress {
                final_until_ms: id as u64,
                ..Progress::default()
            };
            let request = CoordinatorRequest::Begin(SharedBeginning::of(&progress));
            let event = Event::Requested(request);
            self.processes[id].inbox.push_back((event, None));
        }
    }

    /// Whether all processes of the run that this one belongs to are connected with each other.
    fn is_whole(&self, id: usize) -> bool {
        let Some((run, data)) = &self.processes[id].run else {
            return false;
        };
        let others = (0..self.hosts).filter(|index| *index != self.processes[id].index);
        others.map(|index| data[index].unwrap()).all(|link| {
            let other = self.other(link, id);
            let peer = &self.processes[other];
            let theirs = peer.run.as_ref();
            let same = theirs.is_some_and(|(their_run, data)| {
                their_run == run && data[self.processes[id].index] == Some(link)
            });
            same && self.is_active(other) && self.passes(link) && !self.links[link].closed[0]
        })
    }

    fn apply(&mut self, step: Step) {
        let pick = |which: usize, of: &[usize]| of.get(which % of.len().max(1)).copied();
        let running = self.active();
        let alive = (0..self.processes.len()).filter(|id| self.processes[*id].is_alive);
        let alive: Vec<usize> = alive.collect();
        let which = match step {
            Step::Run(ms) => return self.run(Duration::from_millis(ms)),
            Step::Wait(ms) => return self.now += Duration::from_millis(ms),
            Step::Start(index, value) => {
                return self.start(index % self.hosts, settings(value), "secret");
            }
            Step::Thaw(which) | Step::Kill(which) | Step::LosePower(which) => pick(which, &alive),
            Step::Dial(which)
            | Step::Read(which, _)
            | Step::Handle(which)
            | Step::Tick(which)
            | Step::Begin(which)
            | Step::StandBy(which)
            | Step::Freeze(which)
            | Step::Isolate(which)
            | Step::Stop(which)
            | Step::Fail(which, _)
            | Step::Reset(which, _) => pick(which, &running),
        };
        let Some(id) = which else { return };
        match step {
            Step::Dial(_) => self.dial(id),
            Step::Read(_, pick) => drop(self.read(id, pick)),
            Step::Handle(_) => drop(self.handle(id)),
            Step::Tick(_) => self.tick(id),
            Step::Begin(_) => self.begin(id),
            Step::StandBy(_) => {
                let request = CoordinatorRequest::StandBy("another".to_owned());
                let event = (Event::Requested(request), None);
                self.processes[id].inbox.push_back(event);
            }
            Step::Freeze(_) => self.processes[id].is_frozen = true,
            Step::Isolate(_) => self.processes[id].unreachable_since = Some(self.now),
            Step::Thaw(_) => {
                self.processes[id].is_frozen = false;
                self.processes[id].unreachable_since = None;
            }
            Step::Kill(_) => self.close_all(id),
            Step::LosePower(_) => {
                self.processes[id].is_alive = false;
                self.processes[id].unreachable_since = Some(self.now);
            }
            Step::Stop(_) => self.processes[id].stop_requested = true,
            Step::Fail(_, is_fence) => self.fail(
                id,
                match is_fence && self.processes[id].index == 0 {
                    true => fence(),
                    false => StreamsError::Stuck { worker: 0 },
                },
            ),
            Step::Reset(_, link) => {
                let data = self.processes[id].run.iter().flat_map(|(_, data)| data);
                let links = data
                    .chain(&self.processes[id].data)
                    .chain(&self.processes[id].control);
                let links: Vec<usize> = links.copied().flatten().collect();
                if let Some(link) = pick(link, &links) {
                    // A reset closes the connection at both ends.
                    for end in self.links[link].ends {
                        self.close(link, end);
                    }
                }
            }
            Step::Run(_) | Step::Wait(_) | Step::Start(..) => {}
        }
    }
}

fn fence() -> StreamsError {
    let id = "app".to_owned();
    StreamsError::Log(LogError::Fenced { id })
}

/// A random step of a test. The numbers select a process and, in some steps, a connection.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// All processes run without delays for this number of milliseconds.
    Run(u64),
    /// No process does anything for this number of milliseconds.
    Wait(u64),
    Dial(usize),
    Read(usize, usize),
    Handle(usize),
    Tick(usize),
    Begin(usize),
    StandBy(usize),
    /// A process with this index and these settings starts, even if the index has one already.
    Start(usize, u8),
    Kill(usize),
    LosePower(usize),
    Freeze(usize),
    Isolate(usize),
    Thaw(usize),
    /// A connection of a process is reset.
    Reset(usize, usize),
    Stop(usize),
    /// The run of a process fails. If the flag is set, another run has fenced it; otherwise the run has an error of its
    /// own.
    Fail(usize, bool),
}

fn delay() -> impl Strategy<Value = Step> {
    let (which, pick) = (0_usize..8, 0_usize..8);
    prop_oneof![
        2 => (0_u64..400).prop_map(Step::Run),
        2 => (0_u64..400).prop_map(Step::Wait),
        4 => which.clone().prop_map(Step::Dial),
        8 => (which.clone(), pick).prop_map(|(id, link)| Step::Read(id, link)),
        12 => which.clone().prop_map(Step::Handle),
        4 => which.clone().prop_map(Step::Tick),
        2 => which.clone().prop_map(Step::Begin),
        1 => which.prop_map(Step::StandBy),
    ]
}

fn fault() -> impl Strategy<Value = Step> {
    let (which, pick) = (0_usize..8, 0_usize..8);
    let value = prop_oneof![9 => Just(2_u8), 1 => Just(3)];
    prop_oneof![
        1 => (0_u64..7_000).prop_map(Step::Run),
        1 => (0_u64..7_000).prop_map(Step::Wait),
        4 => (which.clone(), value).prop_map(|(index, value)| Step::Start(index, value)),
        2 => which.clone().prop_map(Step::Kill),
        1 => which.clone().prop_map(Step::LosePower),
        1 => which.clone().prop_map(Step::Freeze),
        1 => which.clone().prop_map(Step::Isolate),
        2 => which.clone().prop_map(Step::Thaw),
        2 => (which.clone(), pick).prop_map(|(id, link)| Step::Reset(id, link)),
        1 => which.clone().prop_map(Step::Stop),
        1 => (which, any::<bool>()).prop_map(|(id, is_fence)| Step::Fail(id, is_fence)),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(prop_oneof![6 => delay(), 1 => fault()], 0..120)
}

fn message() -> impl Strategy<Value = Result<ControlMessage, String>> {
    let failed = |exit_code| ControlMessage::Failed {
        exit_code,
        message: "failed".to_owned(),
    };
    let beginning = SharedBeginning::of(&Progress::default());
    prop_oneof![
        Just(Err("the connection to the process was closed".to_owned())),
        Just(Ok(ControlMessage::Ready)),
        Just(Ok(ControlMessage::Begin(beginning))),
        Just(Ok(ControlMessage::Dissolve)),
        Just(Ok(ControlMessage::StopRequested)),
        Just(Ok(ControlMessage::Drain)),
        Just(Ok(ControlMessage::DrainConfirmed)),
        Just(Ok(ControlMessage::Close)),
        prop_oneof![Just(75), Just(78)].prop_map(move |exit_code| Ok(failed(exit_code))),
    ]
}

fn error(process: &Process) -> (u8, String) {
    let failure = process.failure.as_ref();
    failure.map_or((0, String::new()), |it| (it.exit_code(), it.to_string()))
}

#[test]
fn a_group_without_faults_does_not_end() {
    let mut network = Network::running_group(4);
    network.run(Duration::from_secs(60));
    assert!((0..4).all(|id| network.is_whole(id)));
}

#[test]
fn a_failure_is_reported_with_its_reason() {
    let mut network = Network::running_group(3);
    network.fail(1, StreamsError::Stuck { worker: 7 });
    network.run(4 * TICK);
    let [first, _, third] = &network.processes[..] else {
        panic!("not three processes")
    };
    for (code, sentence) in [error(first), error(third)] {
        assert_eq!(code, 75);
        assert!(
            sentence.contains("process 1 (host-1) was lost"),
            "{sentence}"
        );
    }
    assert!(error(first).1.contains("worker 7"), "{}", error(first).1);
}

#[test]
fn all_end_with_a_permanent_error_of_process_0_before_the_beginning() {
    let mut network = Network::complete_group(3);
    let difference = "--window".to_owned();
    network.fail(0, StreamsError::Disagreement { difference });
    network.run(4 * TICK);
    for process in &network.processes {
        assert_eq!(error(process).0, 64);
        assert!(!process.is_alive && error(process).1.contains("--window"));
    }
}

#[test]
fn the_others_wait_for_a_process_0_that_a_restart_can_fix() {
    let mut network = Network::complete_group(3);
    network.fail(0, StreamsError::Stuck { worker: 0 });
    network.run(4 * TICK);
    assert_eq!(network.active(), [1, 2]);
    network.start(0, settings(2), "secret");
    network.run(Duration::from_millis(500));
    assert!((1..4).all(|id| network.is_whole(id)));
}

#[test]
fn process_0_ends_when_a_process_is_lost_while_it_reads_the_progress() {
    let mut network = Network::complete_group(3);
    network.close_all(1);
    network.processes[0].is_complete = false;
    network.run(4 * TICK);
    assert_eq!(error(&network.processes[0]).0, 75);
    assert_eq!(network.active(), [2]);
}

#[test]
fn no_process_begins_without_a_data_connection() {
    let mut network = Network::complete_group(3);
    let link = network.processes[1].data[2].unwrap();
    network.close(link, 2);
    network.tick(1);
    network.begin(0);
    while network.handle(0) || network.read(1, 0) || network.handle(1) {}
    let sentence = error(&network.processes[1]).1;
    assert!(
        sentence.contains("the process disconnected before the run began"),
        "{sentence}"
    );
}

#[test]
fn a_process_that_stops_while_the_group_forms_leaves_alone() {
    let mut network = Network::new(3);
    network.close_all(2);
    network.run(Duration::from_millis(500));
    let control = network.processes[0].control[1].unwrap();
    let end = network.end(control, 0);
    network.links[control].in_flight[end].push_back(Ok(ControlMessage::StopRequested));
    network.run(4 * TICK);
    assert_eq!(network.active(), [0, 1]);
}

/// The connections of a host without power stay open for ten seconds. A process that replaces the lost one must not
/// wait until they close.
#[test]
fn a_process_is_replaced_as_soon_as_it_counts_as_lost() {
    let mut network = Network::new(3);
    network.close_all(2);
    network.run(Duration::from_millis(500));
    network.apply(Step::LosePower(1));
    network.start(1, settings(2), "secret");
    network.start(2, settings(2), "secret");
    network.run(END_BOUND);
    assert!([0, 3, 4].into_iter().all(|id| network.is_whole(id)));
}

#[test]
fn a_drain_does_not_wait_for_a_lost_process() {
    let mut network = Network::running_group(3);
    network.processes[0].stop_requested = true;
    network.tick(0);
    network.close_all(1);
    network.run(4 * TICK);
    for process in &network.processes {
        assert!(!process.is_alive && process.failure.is_none());
    }
}

#[test]
fn a_drain_waits_three_seconds_for_a_frozen_process() {
    for is_fence in [false, true] {
        let mut network = Network::running_group(3);
        network.processes[1].is_frozen = true;
        match is_fence {
            true => network.fail(0, fence()),
            false => network.processes[0].stop_requested = true,
        }
        network.run(Duration::from_secs(3));
        assert_eq!(network.active(), [0, 2]);
        network.run(4 * TICK);
        assert!(network.active().is_empty());
    }
}

proptest! {
    /// The simulated network also checks at each step that a group has exactly one process of each index, all with
    /// equal settings, and that messages of earlier connections have no effect.
    #[test]
    fn a_group_is_whole_or_ends_in_time(hosts in 1_usize..5, before in any::<bool>(), steps in steps()) {
        let mut network = if before { Network::running_group(hosts) } else { Network::new(hosts) };
        steps.into_iter().for_each(|step| network.apply(step));
        network.run(END_BOUND);
        for id in network.active() {
            let process = &network.processes[id];
            prop_assert!(!process.stop_requested, "process {} has not stopped", id);
            prop_assert!(process.run.is_none() || network.is_whole(id), "process {} lacks another", id);
        }
        // Acts as a supervisor: ends all processes except one healthy process of each index, and starts the missing
        // ones.
        for id in 0..network.processes.len() {
            let process = &network.processes[id];
            let is_healthy = !process.is_frozen && process.unreachable_since.is_none() && process.settings == settings(2);
            if process.is_alive && !(is_healthy && network.newest(process.index) == Some(id)) {
                network.close_all(id);
            }
        }
        let until = network.now + FORM_BOUND;
        while !(0..hosts).all(|index| network.newest(index).is_some_and(|id| network.is_whole(id))) {
            prop_assert!(network.now < until, "no group forms");
            for index in 0..hosts {
                if network.newest(index).is_none() {
                    network.start(index, settings(2), "secret");
                }
            }
            network.run(TICK);
        }
    }

    #[test]
    fn a_stop_reaches_all_processes(
        hosts in 1_usize..5, begins in any::<bool>(), dissolves in any::<bool>(), from in 0_usize..5,
        delays in vec(delay(), 0..60),
    ) {
        let mut network = Network::complete_group(hosts);
        if begins {
            network.run(Duration::from_millis(100));
        }
        match dissolves {
            true => network.fail(0, fence()),
            false => network.processes[from % hosts].stop_requested = true,
        }
        for step in delays {
            network.apply(step);
            let ended = network.processes.iter().any(|it| !it.is_alive);
            let notified = network.processes.iter().all(|it| it.stop_requested);
            prop_assert!(!ended || notified, "a process ended before all were notified");
        }
        network.run(Duration::from_secs(1));
        for process in &network.processes {
            prop_assert!(!process.is_alive && process.stop_requested);
            let dissolved = process.failure.as_ref().map(StreamsError::dissolves);
            prop_assert_eq!(dissolved, dissolves.then_some(true), "{:?}", process.failure);
        }
    }

    #[test]
    fn a_rejected_handshake_changes_nothing(
        index in 0_usize..3, process in 0_usize..5, to in 0_usize..5, is_data in any::<bool>(),
        is_authentic in any::<bool>(), value in 2_u8..4, runs_ms in 0_u64..300,
    ) {
        let mut network = Network::new(3);
        network.run(Duration::from_millis(runs_ms));
        let is_forming = network.processes[index].run.is_none();
        let coordinator = &mut network.processes[index].coordinator;
        let before = format!("{coordinator:?}");
        let purpose = if is_data { Purpose::Data } else { Purpose::Control };
        let token = if is_authentic { "secret" } else { "guessed" }.to_owned();
        let handshake = Handshake { process, to, purpose, token, settings: settings(value) };
        let actions = coordinator.on(Event::Incoming(handshake), network.now);
        match &actions[..] {
            [] => prop_assert!(!is_forming),
            _ if !is_forming => prop_assert!(false, "{:?}", actions),
            [Action::Reply(_, HandshakeReply::DifferentSettings(_)), Action::Fail(error)] => {
                prop_assert!(is_authentic && value == 3);
                prop_assert_eq!(error.exit_code(), 64);
                return Ok(());
            }
            [Action::Reply(_, HandshakeReply::Accepted)] => {
                prop_assert!(is_authentic && value == 2 && to == index && process > index && process < 3);
                prop_assert!(is_data || index == 0);
            }
            [Action::Reply(..)] => {}
            _ => prop_assert!(false, "{:?}", actions),
        }
        prop_assert_eq!(before, format!("{coordinator:?}"));
    }

    /// `Network::feed` checks that the message, which is not of the current connection, does not change the state of
    /// the coordinator.
    #[test]
    fn a_message_of_a_former_connection_changes_nothing(
        index in 0_usize..3, process in 0_usize..3, number in 0_u64..9, message in message(), runs_ms in 0_u64..300,
    ) {
        let mut network = Network::new(3);
        network.run(Duration::from_millis(runs_ms));
        let event = Event::Received { process, number, message };
        prop_assume!(network.is_stale(index, &event));
        network.feed(index, event, None);
    }
}
