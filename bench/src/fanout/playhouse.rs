//! A server, what feeds it, and its audience: three processes, and the orders that go between them.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Load, audience::Figures, feed::Feed, transport::Transport};
use crate::{Ours, Outcome, child::Contender, cluster::Cluster};

const PREFIX: &str = "fanout";

/// After all have come, so that what their coming cost is over.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Plain,
    Floor,
    Ours,
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Server::Plain => "tokio-tungstenite + broadcast",
            Server::Floor => "prepared frames by hand",
            Server::Ours => "emostream publisher",
        }
    }
}

/// See the module.
pub(crate) struct Playhouse {
    /// Goes first, or it would take the end for a fault.
    audience: Audience,
    server: Contender,
    /// Where ours tells of itself.
    admin: Option<SocketAddr>,
    _feed: Feed,
    load: Load,
    empty_kb: f64,
    empty_kernel_kb: f64,
}

impl Playhouse {
    /// Starts all; nobody has come yet.
    pub(crate) fn open(
        server: Server,
        ours: &Ours,
        cluster: &Cluster,
        load: Load,
        transport: Transport,
    ) -> Outcome<Playhouse> {
        cluster.renew_results(PREFIX)?;
        let (process, address, admin) = match server {
            Server::Plain => beside("fanout-plain", ours, load)?,
            Server::Floor => beside("fanout-floor", ours, load)?,
            Server::Ours => publisher(ours)?,
        };
        let feed = Feed::start(cluster, PREFIX, load)?;
        let audience = Audience::start(address, load, transport)?;
        std::thread::sleep(SETTLE);
        Ok(Playhouse {
            empty_kb: process.resident_mb()? * 1024.0,
            empty_kernel_kb: kernel_kb()?,
            server: process,
            admin,
            _feed: feed,
            audience,
            load,
        })
    }

    /// Everybody comes at once; how long until the last has seen something.
    pub(crate) fn fill(&mut self) -> Outcome<Duration> {
        let seconds: f64 = self.audience.order("fill")?.trim().parse()?;
        std::thread::sleep(SETTLE);
        Ok(Duration::from_secs_f64(seconds))
    }

    pub(crate) fn measure(&mut self, span: Duration) -> Outcome<Figures> {
        let order = format!("measure {}", span.as_millis());
        Figures::read(&self.audience.order(&order)?)
    }

    /// `sockets` stop reading for so long, and then catch up; the figures of the others meanwhile.
    pub(crate) fn stall(&mut self, sockets: usize, span: Duration) -> Outcome<Figures> {
        let order = format!("stall {} {sockets}", span.as_millis());
        Figures::read(&self.audience.order(&order)?)
    }

    /// So many leave and come a second; the figures of all.
    pub(crate) fn churn(&mut self, rate: u32, span: Duration) -> Outcome<Figures> {
        let order = format!("churn {} {rate}", span.as_millis());
        Figures::read(&self.audience.order(&order)?)
    }

    /// The slowest answer of its administrator's address while frames go out.
    pub(crate) fn health(&mut self, span: Duration) -> Outcome<f64> {
        let admin = self.admin.ok_or("only ours has an administrator")?;
        let until = Instant::now() + span;
        let mut slowest = Duration::ZERO;
        while Instant::now() < until {
            for path in ["/healthz", "/metrics"] {
                let begun = Instant::now();
                let mut stream = TcpStream::connect(admin)?;
                write!(
                    stream,
                    "GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"
                )?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                if !answer.starts_with("HTTP/1.1 200") {
                    return Err(answer.into());
                }
                slowest = slowest.max(begun.elapsed());
            }
        }
        Ok(slowest.as_secs_f64() * 1e3)
    }

    pub(crate) fn server_cpu(&self) -> Outcome<Duration> {
        self.server.cpu()
    }

    pub(crate) fn server_kb(&self) -> Outcome<f64> {
        Ok(self.server.resident_mb()? * 1024.0)
    }

    /// What a connection has added since nobody was here: of the server's own memory, and with the kernel's.
    /// Both ends of a connection are on this machine, so half of what the kernel took is the server's.
    pub(crate) fn memory_kb(&self) -> Outcome<(f64, f64)> {
        let sockets = self.load.sockets as f64;
        let own = (self.server_kb()? - self.empty_kb) / sockets;
        let kernel = (kernel_kb()? - self.empty_kernel_kb) / sockets / 2.0;
        Ok((own, own + kernel))
    }
}

/// What the kernel holds in objects (sockets, files, epoll's entries) and in sockets' buffers.
fn kernel_kb() -> Outcome<f64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let slab = memory.lines().find_map(|line| line.strip_prefix("Slab:"));
    let slab: f64 = slab
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no Slab in /proc/meminfo")?
        .parse()?;
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
    let pages: f64 = tcp
        .and_then(|line| line.split_whitespace().last())
        .ok_or("no TCP in /proc/net/sockstat")?
        .parse()?;
    Ok(slab + pages * 4.0)
}

/// A server's process, where it serves, and where its administrator is, if it has one.
type Serving = (Contender, SocketAddr, Option<SocketAddr>);

/// A server of this bench's own.
fn beside(name: &str, ours: &Ours, load: Load) -> Outcome<Serving> {
    let mut process = Contender::start(
        Command::new(std::env::current_exe()?)
            .args([name, "--kafka", &ours.kafka, "--prefix", PREFIX])
            .args(["--rooms", &load.rooms.to_string()]),
    )?;
    let url = process.hear("serves http://")?;
    Ok((process, url.trim_end_matches('/').parse()?, None))
}

fn publisher(ours: &Ours) -> Outcome<Serving> {
    // A port that was free a moment ago: the program does not say where its administrator is, but in its log.
    let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut process = Contender::start(
        Command::new(&ours.program)
            .args([
                "publisher",
                "--kafka",
                &ours.kafka,
                "--topic-prefix",
                PREFIX,
            ])
            .args(["--listen", "127.0.0.1:0", "--admin", &admin.to_string()])
            .args(&ours.flags),
    )?;
    let url = process.hear("the publisher serves http://")?;
    Ok((process, url.trim_end_matches('/').parse()?, Some(admin)))
}

/// The audience's process.
struct Audience {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Audience {
    fn start(address: SocketAddr, load: Load, transport: Transport) -> Outcome<Audience> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["fanout-audience", "--server", &address.to_string()])
            .args(["--sockets", &load.sockets.to_string()])
            .args(["--rooms", &load.rooms.to_string()])
            .args(["--transport", transport.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Audience {
            process,
            orders,
            answers,
        })
    }

    fn order(&mut self, order: &str) -> Outcome<String> {
        writeln!(self.orders, "{order}")?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err(format!("the audience ended at: {order}").into()),
            _ => Ok(answer),
        }
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
