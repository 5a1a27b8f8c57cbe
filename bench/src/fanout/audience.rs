//! The audience: thousands of subscribers in one thread, cheap enough to leave the server its CPU.
//!
//! Orders come by standard input, one a line, and each is answered by a line:
//!
//! ```text
//!  fill                → seconds until everybody had seen a result
//!  measure MS          → deliveries p50 p99 most lost
//!  stall MS SOCKETS    → the same of those who go on reading
//!  churn MS RATE       → the same, while so many leave and come a second
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
use crate::{Outcome, table::quantile};

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

/// Handshakes under way at once: what a listener's queue takes, since who finds it full waits a second.
const SHAKING: usize = 2000;
/// What must happen happens long before this.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it sleeps when nothing has come. It does not wait for the next frame: then each frame would wake it,
/// and on the loopback a server's own call pays for that, as no server does for clients elsewhere.
const NAP: Duration = Duration::from_millis(1);
/// How long those who stopped reading have to catch up before they are looked at.
const CATCH_UP: Duration = Duration::from_secs(5);

/// What was seen in a span of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Live tallies and finals.
    pub(crate) deliveries: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    most_ms: f64,
    /// Finals that did not follow the one before.
    pub(crate) lost: u64,
}

impl Figures {
    pub(crate) fn read(line: &str) -> Outcome<Figures> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().ok_or_else(|| format!("no figures: {line}"));
        Ok(Figures {
            deliveries: next()?.parse()?,
            p50_ms: next()?.parse()?,
            p99_ms: next()?.parse()?,
            most_ms: next()?.parse()?,
            lost: next()?.parse()?,
        })
    }

    fn line(&self) -> String {
        format!(
            "{} {:.3} {:.3} {:.3} {}",
            self.deliveries, self.p50_ms, self.p99_ms, self.most_ms, self.lost
        )
    }
}

/// Somebody in the audience.
struct Seat {
    stream: TcpStream,
    /// A frame that has begun, or the answer to the handshake.
    begun: Vec<u8>,
    /// The handshake was sent, and answered.
    asked: bool,
    shaken: bool,
    /// It has seen a result.
    seen: bool,
    /// It does not read.
    stalled: bool,
    /// Where its last final began.
    last_final: Option<u64>,
}

/// What is counted while it happens.
#[derive(Default)]
struct Count {
    deliveries: u64,
    lost: u64,
    delays_ms: Vec<f64>,
}

struct Audience {
    flags: Flags,
    poll: Poll,
    seats: Vec<Option<Seat>>,
    /// Who is still to connect.
    coming: VecDeque<usize>,
    shaking: usize,
    unseen: usize,
    count: Count,
    scratch: Vec<u8>,
}

pub(crate) fn run(flags: Flags) -> Outcome<()> {
    raise_open_files();
    let mut audience = Audience {
        poll: Poll::new()?,
        seats: (0..flags.sockets).map(|_| None).collect(),
        coming: VecDeque::new(),
        shaking: 0,
        unseen: 0,
        count: Count::default(),
        scratch: vec![0; 64 << 10],
        flags,
    };
    let (given, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if given.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        let line = match orders.try_recv() {
            Ok(line) => line,
            // It reads on between orders, or what comes then would count as late in the next one.
            Err(TryRecvError::Empty) => {
                audience.turn()?;
                continue;
            }
            Err(TryRecvError::Disconnected) => return Ok(()),
        };
        let mut words = line.split_whitespace();
        let order = words.next().unwrap_or_default();
        let mut number =
            || -> Outcome<u64> { Ok(words.next().ok_or("a number is missing")?.parse()?) };
        match order {
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
            other => return Err(format!("no order: {other}").into()),
        }
    }
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it is not allowed, connecting says so.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

impl Audience {
    fn fill(&mut self) -> Outcome<Duration> {
        let begun = Instant::now();
        self.coming.extend(0..self.flags.sockets);
        self.unseen = self.flags.sockets;
        while self.unseen > 0 {
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} have seen nothing", self.unseen).into());
            }
            self.turn()?;
        }
        Ok(begun.elapsed())
    }

    /// Counts for so long; `each` turn something may be done.
    fn measure(
        &mut self,
        span: Duration,
        mut each: impl FnMut(&mut Self, Duration) -> Outcome<()>,
    ) -> Outcome<Figures> {
        self.count = Count::default();
        let begun = Instant::now();
        while begun.elapsed() < span {
            each(self, begun.elapsed())?;
            self.turn()?;
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
            most_ms: quantile(&mut delays_ms, 1.0),
            lost,
        })
    }

    fn stall(&mut self, span: Duration, sockets: usize) -> Outcome<Figures> {
        self.stop_reading(sockets, true);
        let figures = self.measure(span, |_, _| Ok(()))?;
        self.stop_reading(sockets, false);
        for place in 0..sockets {
            // Nothing tells of what has long been there.
            self.receive(place)?;
        }
        let caught_up = self.measure(CATCH_UP, |_, _| Ok(()))?;
        Ok(Figures {
            lost: figures.lost + caught_up.lost,
            ..figures
        })
    }

    fn stop_reading(&mut self, sockets: usize, stalled: bool) {
        for seat in self.seats.iter_mut().take(sockets).flatten() {
            seat.stalled = stalled;
        }
    }

    fn churn(&mut self, span: Duration, rate: f64) -> Outcome<Figures> {
        let mut left = 0;
        self.measure(span, |this, elapsed| {
            while f64::from(left) < elapsed.as_secs_f64() * rate {
                left += 1;
                let place = rand::rng().random_range(0..this.seats.len());
                if this.seats[place].as_ref().is_some_and(|seat| seat.seen) {
                    this.seats[place] = None;
                    this.unseen += 1;
                    this.coming.push_back(place);
                }
            }
            Ok(())
        })
    }

    /// Lets some connect, then takes what has come; sleeps if that was nothing.
    fn turn(&mut self) -> Outcome<()> {
        while self.shaking < SHAKING
            && let Some(place) = self.coming.pop_front()
        {
            self.connect(place)?;
        }
        let mut events = Events::with_capacity(4096);
        self.poll.poll(&mut events, Some(Duration::ZERO))?;
        if events.is_empty() {
            std::thread::sleep(NAP);
        }
        for event in &events {
            let place = event.token().0;
            if event.is_writable() {
                self.shake(place)?;
            }
            if event.is_readable() || event.is_read_closed() {
                self.receive(place)?;
            }
        }
        Ok(())
    }

    fn connect(&mut self, place: usize) -> Outcome<()> {
        let mut stream = TcpStream::connect(self.flags.server)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut stream, Token(place), both)?;
        self.shaking += 1;
        self.seats[place] = Some(Seat {
            stream,
            begun: Vec::new(),
            asked: false,
            shaken: false,
            seen: false,
            stalled: false,
            last_final: None,
        });
        Ok(())
    }

    /// The connection stands: asks for a room.
    fn shake(&mut self, place: usize) -> Outcome<()> {
        let Some(seat) = self.seats[place].as_mut().filter(|seat| !seat.asked) else {
            return Ok(());
        };
        if let Some(error) = seat.stream.take_error()? {
            return Err(error.into());
        }
        let room = room(place % self.flags.rooms);
        let request = self.flags.transport.request(&room);
        match seat.stream.write(&request) {
            Ok(bytes) if bytes == request.len() => {
                seat.asked = true;
                Ok(())
            }
            Ok(bytes) => Err(format!("{bytes} of a handshake were taken").into()),
            // Told of too early; it is told of again.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn receive(&mut self, place: usize) -> Outcome<()> {
        let transport = self.flags.transport;
        let Some(seat) = self.seats[place].as_mut().filter(|seat| !seat.stalled) else {
            return Ok(());
        };
        loop {
            let bytes = match seat.stream.read(&mut self.scratch) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1e3;
            let mut joined = std::mem::take(&mut seat.begun);
            let all = match joined.is_empty() {
                true => &self.scratch[..bytes],
                false => {
                    joined.extend_from_slice(&self.scratch[..bytes]);
                    &joined[..]
                }
            };
            let mut rest = all;
            if !seat.shaken {
                let Some(behind) = transport.behind_head(rest) else {
                    seat.begun = rest.to_vec();
                    continue;
                };
                rest = behind?;
                seat.shaken = true;
                self.shaking -= 1;
            }
            while let Some(unit) = transport.unit(rest) {
                if !unit.reply.is_empty() && seat.stream.write(&unit.reply).is_err() {
                    return Err("a reply was not taken".into());
                }
                rest = unit.rest;
                for message in transport.messages(unit.payload) {
                    if seat.hear(message, now_ms, &mut self.count) {
                        self.unseen -= 1;
                    }
                }
            }
            seat.begun = rest.to_vec();
            if bytes < self.scratch.len() {
                // All that was there; more is told of.
                return Ok(());
            }
        }
    }
}

impl Seat {
    /// Takes a message in; whether it is the first result.
    fn hear(&mut self, payload: &[u8], now_ms: f64, count: &mut Count) -> bool {
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
        let first = !std::mem::replace(&mut self.seen, true);
        // What was there before it came is as old as it is.
        if live
            && !first
            && let Some(emitted_at) = number(payload, br#""emitted_at":"#)
        {
            count.delays_ms.push(now_ms - emitted_at as f64);
        }
        first
    }
}

/// The number behind `name`.
fn number(payload: &[u8], name: &[u8]) -> Option<u64> {
    let at = payload
        .windows(name.len())
        .position(|window| window == name)?;
    let digits = payload[at + name.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}
