//! The audience of `fanout`: thousands of subscribers in one thread, so that the server can use most of the CPU.
//!
//! The process reads one command per line from standard input, and prints one line in response to each command:
//!
//! ```text
//!  fill                → seconds until all subscribers have received a result
//!  measure MS          → deliveries p50 p99 max lost
//!  stall MS SOCKETS    → the same figures, while SOCKETS sockets are not read
//!  churn MS RATE       → the same figures, while RATE subscribers a second reconnect
//! ```

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write, stdin},
    net::SocketAddr,
    sync::mpsc::{self, TryRecvError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use mio::{Events, Interest, Poll, Token, net::TcpStream};
use rand::RngExt;

use super::{
    feed::{WINDOW_MS, room},
    transport::Transport,
};
use crate::{Result, table::quantile};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    sockets: usize,
    #[arg(long)]
    rooms: usize,
    #[arg(long)]
    transport: Transport,
}

/// Maximum number of concurrent handshakes. The number is less than the listener's backlog: if the backlog is full, the
/// kernel drops a client's SYN, and the client sends it again only after a second.
const MAX_HANDSHAKES: usize = 2000;
/// Timeout of `fill`, far above its usual duration.
const FILL_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after a poll without events. If the thread blocked in epoll instead, each frame would wake it. On the loopback
/// interface, this wake-up costs CPU time in the server's `send`, which clients on other hosts do not cost.
const IDLE_SLEEP: Duration = Duration::from_millis(1);
/// Time after a stall in which the stalled subscribers read the frames that they missed. The final results that these
/// subscribers have lost are counted in this time.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Measurements of a span of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Number of received live tallies and final results.
    pub(crate) deliveries: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    max_ms: f64,
    /// Number of final results whose window does not directly follow the window of the previous final result. One or
    /// more final results were lost before each of these.
    pub(crate) lost: u64,
}

impl Figures {
    pub(crate) fn read(line: &str) -> Result<Figures> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().ok_or_else(|| format!("no figures: {line}"));
        Ok(Figures {
            deliveries: next()?.parse()?,
            p50_ms: next()?.parse()?,
            p99_ms: next()?.parse()?,
            max_ms: next()?.parse()?,
            lost: next()?.parse()?,
        })
    }

    fn line(&self) -> String {
        format!(
            "{} {:.3} {:.3} {:.3} {}",
            self.deliveries, self.p50_ms, self.p99_ms, self.max_ms, self.lost
        )
    }
}

/// One subscriber.
struct Client {
    stream: TcpStream,
    /// Received bytes of an incomplete frame, or of the response's head.
    buffered: Vec<u8>,
    /// Whether the request was sent.
    is_requested: bool,
    /// Whether the head of the response was received.
    is_accepted: bool,
    /// Whether a result was received.
    has_result: bool,
    /// Whether the audience does not read the socket at present.
    stalled: bool,
    /// Start of the window of the last final result that was received.
    last_final: Option<u64>,
}

/// The measurements of the current span.
#[derive(Default)]
struct Count {
    deliveries: u64,
    lost: u64,
    delays_ms: Vec<f64>,
}

struct Audience {
    flags: Flags,
    poll: Poll,
    clients: Vec<Option<Client>>,
    /// Indices of clients that are not connected yet.
    to_connect: VecDeque<usize>,
    handshakes: usize,
    /// Number of clients that have not received a result.
    waiting: usize,
    count: Count,
    scratch: Vec<u8>,
}

pub(crate) fn run(flags: Flags) -> Result<()> {
    raise_open_files();
    let mut audience = Audience {
        poll: Poll::new()?,
        clients: (0..flags.sockets).map(|_| None).collect(),
        to_connect: VecDeque::new(),
        handshakes: 0,
        waiting: 0,
        count: Count::default(),
        scratch: vec![0; 64 << 10],
        flags,
    };
    let (sender, commands) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        let line = match commands.try_recv() {
            Ok(line) => line,
            // Sockets are read between two commands, too. Otherwise frames that arrive in that time would be read only
            // during the next measurement, and would count as delayed.
            Err(TryRecvError::Empty) => {
                audience.poll_once()?;
                continue;
            }
            Err(TryRecvError::Disconnected) => return Ok(()),
        };
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let mut number =
            || -> Result<u64> { Ok(words.next().ok_or("a number is missing")?.parse()?) };
        match command {
            "fill" => println!("{:.3}", audience.fill()?.as_secs_f64()),
            "measure" => {
                let span = Duration::from_millis(number()?);
                println!("{}", audience.measure(span, |_, _| Ok(()))?.line());
            }
            "stall" => {
                let (span, sockets) = (Duration::from_millis(number()?), number()? as usize);
                println!("{}", audience.stall(span, sockets)?.line());
            }
            "churn" => {
                let (span, rate) = (Duration::from_millis(number()?), number()? as f64);
                println!("{}", audience.churn(span, rate)?.line());
            }
            other => return Err(format!("not a command: {other}").into()),
        }
    }
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // The error is ignored: if the limit stays too low, connecting fails with an error.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

impl Audience {
    fn fill(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.to_connect.extend(0..self.flags.sockets);
        self.waiting = self.flags.sockets;
        while self.waiting > 0 {
            if begun.elapsed() > FILL_TIMEOUT {
                return Err(format!("{} subscribers have no result", self.waiting).into());
            }
            self.poll_once()?;
        }
        Ok(begun.elapsed())
    }

    /// Measures deliveries for `span`. Calls `each` before every poll.
    fn measure(
        &mut self,
        span: Duration,
        mut each: impl FnMut(&mut Self, Duration) -> Result<()>,
    ) -> Result<Figures> {
        self.count = Count::default();
        let begun = Instant::now();
        while begun.elapsed() < span {
            each(self, begun.elapsed())?;
            self.poll_once()?;
        }
        let Count {
            deliveries,
            lost,
            mut delays_ms,
        } = std::mem::take(&mut self.count);
        Ok(Figures {
            deliveries,
            p50_ms: quantile(&mut delays_ms, 0.5),
            p99_ms: quantile(&mut delays_ms, 0.99),
            max_ms: quantile(&mut delays_ms, 1.0),
            lost,
        })
    }

    fn stall(&mut self, span: Duration, sockets: usize) -> Result<Figures> {
        self.stop_reading(sockets, true);
        let figures = self.measure(span, |_, _| Ok(()))?;
        self.stop_reading(sockets, false);
        for index in 0..sockets {
            // The poll is edge-triggered, so data that arrived while the socket was not read causes no event now, and
            // the socket must be read once without an event.
            self.receive(index)?;
        }
        let caught_up = self.measure(CATCH_UP, |_, _| Ok(()))?;
        Ok(Figures {
            lost: figures.lost + caught_up.lost,
            ..figures
        })
    }

    fn stop_reading(&mut self, sockets: usize, stalled: bool) {
        for client in self.clients.iter_mut().take(sockets).flatten() {
            client.stalled = stalled;
        }
    }

    fn churn(&mut self, span: Duration, rate: f64) -> Result<Figures> {
        let mut left = 0;
        self.measure(span, |this, elapsed| {
            while f64::from(left) < elapsed.as_secs_f64() * rate {
                left += 1;
                let index = rand::rng().random_range(0..this.clients.len());
                if this.clients[index]
                    .as_ref()
                    .is_some_and(|client| client.has_result)
                {
                    this.clients[index] = None;
                    this.waiting += 1;
                    this.to_connect.push_back(index);
                }
            }
            Ok(())
        })
    }

    /// Starts handshakes, polls once, and reads the sockets that have events. Sleeps if there are no events.
    fn poll_once(&mut self) -> Result<()> {
        while self.handshakes < MAX_HANDSHAKES
            && let Some(index) = self.to_connect.pop_front()
        {
            self.connect(index)?;
        }
        let mut events = Events::with_capacity(4096);
        self.poll.poll(&mut events, Some(Duration::ZERO))?;
        if events.is_empty() {
            std::thread::sleep(IDLE_SLEEP);
        }
        for event in &events {
            let index = event.token().0;
            if event.is_writable() {
                self.send_request(index)?;
            }
            if event.is_readable() || event.is_read_closed() {
                self.receive(index)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, index: usize) -> Result<()> {
        let mut stream = TcpStream::connect(self.flags.server)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(index), both)?;
        self.handshakes += 1;
        self.clients[index] = Some(Client {
            stream,
            buffered: Vec::new(),
            is_requested: false,
            is_accepted: false,
            has_result: false,
            stalled: false,
            last_final: None,
        });
        Ok(())
    }

    /// Sends the request of a client whose connection is established.
    fn send_request(&mut self, index: usize) -> Result<()> {
        let Some(client) = self.clients[index]
            .as_mut()
            .filter(|client| !client.is_requested)
        else {
            return Ok(());
        };
        if let Some(error) = client.stream.take_error()? {
            return Err(error.into());
        }
        let room = room(index % self.flags.rooms);
        let request = self.flags.transport.request(&room);
        match client.stream.write(&request) {
            Ok(bytes) if bytes == request.len() => {
                client.is_requested = true;
                Ok(())
            }
            Ok(bytes) => Err(format!("only {bytes} bytes of a request were sent").into()),
            // The socket is not writable, although there was an event. Another event follows when the socket is
            // writable.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self, index: usize) -> Result<()> {
        let transport = self.flags.transport;
        let Some(client) = self.clients[index]
            .as_mut()
            .filter(|client| !client.stalled)
        else {
            return Ok(());
        };
        loop {
            let bytes = match client.stream.read(&mut self.scratch) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e3;
            let mut joined = std::mem::take(&mut client.buffered);
            let all = match joined.is_empty() {
                true => &self.scratch[..bytes],
                false => {
                    joined.extend_from_slice(&self.scratch[..bytes]);
                    &joined[..]
                }
            };
            let mut rest = all;
            if !client.is_accepted {
                let Some(after) = transport.after_head(rest) else {
                    client.buffered = rest.to_vec();
                    continue;
                };
                rest = after?;
                client.is_accepted = true;
                self.handshakes -= 1;
            }
            while let Some(unit) = transport.unit(rest) {
                if !unit.reply.is_empty() && client.stream.write(&unit.reply).is_err() {
                    return Err("a reply could not be sent".into());
                }
                rest = unit.rest;
                for message in transport.messages(unit.payload) {
                    if client.count_message(message, now_ms, &mut self.count) {
                        self.waiting -= 1;
                    }
                }
            }
            client.buffered = rest.to_vec();
            if bytes < self.scratch.len() {
                // All data of the socket was read. New data causes another event.
                return Ok(());
            }
        }
    }
}

impl Client {
    /// Counts a message, and returns whether it is the first result of this client.
    fn count_message(&mut self, payload: &[u8], now_ms: f64, count: &mut Count) -> bool {
        let live = payload.starts_with(br#"{"type":"live""#);
        let closed = payload.starts_with(br#"{"type":"final""#);
        if !live && !closed {
            return false;
        }
        count.deliveries += 1;
        if closed && let Some(start) = number(payload, br#""start":"#) {
            let follows = self.last_final.is_none_or(|last| start == last + WINDOW_MS);
            count.lost += u64::from(!follows);
            self.last_final = Some(start);
        }
        let first = !std::mem::replace(&mut self.has_result, true);
        // The first live tally may be older than the connection, so its delay is not counted.
        if live
            && !first
            && let Some(emitted_at) = number(payload, br#""emitted_at":"#)
        {
            count.delays_ms.push(now_ms - emitted_at as f64);
        }
        first
    }
}

/// Returns the number that follows `name` in a JSON text, without parsing the JSON.
fn number(payload: &[u8], name: &[u8]) -> Option<u64> {
    let at = payload
        .windows(name.len())
        .position(|window| window == name)?;
    let digits = payload[at + name.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
