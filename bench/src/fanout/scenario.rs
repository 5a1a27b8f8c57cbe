//! A scenario of `fanout`: a server, a thread that writes results, and the process of the audience.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use super::{Load, audience::Figures, feed::Feed, transport::Transport};
use crate::{EmoStreamFlags, Result, cluster::Cluster, measured_process::MeasuredProcess};

const PREFIX: &str = "fanout";

/// Pause after all subscribers have connected, so that the cost of connecting is not measured.
const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Plain,
    Baseline,
    EmoStream,
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Server::Plain => "tokio-tungstenite + broadcast",
            Server::Baseline => "prepared frames by hand",
            Server::EmoStream => "emostream publisher",
        }
    }
}

/// A running server with its audience.
pub(crate) struct FanoutScenario {
    /// The field is declared before the server, so that the audience is dropped first: it ends with an error if the
    /// server closes a connection.
    audience: Audience,
    server: MeasuredProcess,
    /// Address of the health checks and metrics. `None` for servers other than EmoStream, which have no such address.
    admin: Option<SocketAddr>,
    _feed: Feed,
    load: Load,
    empty_kb: f64,
    empty_kernel_kb: f64,
}

impl FanoutScenario {
    /// Starts the processes, without connecting subscribers.
    pub(crate) fn open(
        server: Server,
        emostream: &EmoStreamFlags,
        cluster: &Cluster,
        load: Load,
        transport: Transport,
    ) -> Result<FanoutScenario> {
        cluster.recreate_results(PREFIX)?;
        let (process, address, admin) = match server {
            Server::Plain => start_comparison("fanout-plain", emostream, load)?,
            Server::Baseline => start_comparison("fanout-baseline", emostream, load)?,
            Server::EmoStream => publisher(emostream)?,
        };
        let feed = Feed::start(cluster, PREFIX, load)?;
        let audience = Audience::start(address, load, transport)?;
        std::thread::sleep(SETTLE);
        Ok(FanoutScenario {
            empty_kb: process.resident_mb()? * 1024.0,
            empty_kernel_kb: kernel_kb()?,
            server: process,
            admin,
            _feed: feed,
            audience,
            load,
        })
    }

    /// Connects all subscribers at once. Returns the time until all have received a result.
    pub(crate) fn fill(&mut self) -> Result<Duration> {
        let seconds: f64 = self.audience.command("fill")?.trim().parse()?;
        std::thread::sleep(SETTLE);
        Ok(Duration::from_secs_f64(seconds))
    }

    pub(crate) fn measure(&mut self, span: Duration) -> Result<Figures> {
        let command = format!("measure {}", span.as_millis());
        Figures::read(&self.audience.command(&command)?)
    }

    /// Makes the audience stop reading `sockets` sockets for `span`, and then read the frames that these sockets
    /// missed. Returns the figures of the other sockets in `span`. Only the number of lost final results includes all
    /// sockets.
    pub(crate) fn stall(&mut self, sockets: usize, span: Duration) -> Result<Figures> {
        let command = format!("stall {} {sockets}", span.as_millis());
        Figures::read(&self.audience.command(&command)?)
    }

    /// Reconnects `rate` subscribers a second for `span`. Returns the figures of all subscribers.
    pub(crate) fn churn(&mut self, rate: u32, span: Duration) -> Result<Figures> {
        let command = format!("churn {} {rate}", span.as_millis());
        Figures::read(&self.audience.command(&command)?)
    }

    /// Returns the longest response time of the admin address while frames are sent, in ms.
    pub(crate) fn health(&mut self, span: Duration) -> Result<f64> {
        let admin = self.admin.ok_or("only EmoStream has an admin address")?;
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
                let mut response = String::new();
                stream.read_to_string(&mut response)?;
                if !response.starts_with("HTTP/1.1 200") {
                    return Err(response.into());
                }
                slowest = slowest.max(begun.elapsed());
            }
        }
        Ok(slowest.as_secs_f64() * 1e3)
    }

    pub(crate) fn server_cpu(&self) -> Result<Duration> {
        self.server.cpu()
    }

    pub(crate) fn server_kb(&self) -> Result<f64> {
        Ok(self.server.resident_mb()? * 1024.0)
    }

    /// Returns the memory of a connection in KB: that of the server alone, and that of the server and the kernel
    /// together. Both ends of each connection are on this host, so half of the kernel's memory belongs to the clients
    /// and is not counted.
    pub(crate) fn memory_kb(&self) -> Result<(f64, f64)> {
        let sockets = self.load.sockets as f64;
        let own = (self.server_kb()? - self.empty_kb) / sockets;
        let kernel = (kernel_kb()? - self.empty_kernel_kb) / sockets / 2.0;
        Ok((own, own + kernel))
    }
}

/// Returns the kernel's memory for objects (sockets, files, entries of epoll) and for the buffers of sockets, in KB.
fn kernel_kb() -> Result<f64> {
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

/// The process of a server, its address, and its admin address if it has one.
type StartedServer = (MeasuredProcess, SocketAddr, Option<SocketAddr>);

/// Starts a server that EmoStream is compared with. It is a hidden command of this program.
fn start_comparison(name: &str, emostream: &EmoStreamFlags, load: Load) -> Result<StartedServer> {
    let mut process = MeasuredProcess::start(
        Command::new(std::env::current_exe()?)
            .args([name, "--kafka", &emostream.kafka, "--prefix", PREFIX])
            .args(["--rooms", &load.rooms.to_string()]),
    )?;
    let url = process.wait_for_address()?;
    Ok((process, url.trim_end_matches('/').parse()?, None))
}

fn publisher(emostream: &EmoStreamFlags) -> Result<StartedServer> {
    // A free port is chosen here, since the program reports its admin address only in its log.
    let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut process = MeasuredProcess::start(
        Command::new(emostream.program()?)
            .args([
                "publisher",
                "--kafka",
                &emostream.kafka,
                "--topic-prefix",
                PREFIX,
            ])
            .args(["--listen", "127.0.0.1:0", "--admin", &admin.to_string()])
            .args(&emostream.flags),
    )?;
    let url = process.wait_for_address()?;
    Ok((process, url.trim_end_matches('/').parse()?, Some(admin)))
}

/// The process of the audience.
struct Audience {
    process: Child,
    commands: ChildStdin,
    responses: BufReader<ChildStdout>,
}

impl Audience {
    fn start(address: SocketAddr, load: Load, transport: Transport) -> Result<Audience> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["fanout-audience", "--server", &address.to_string()])
            .args(["--sockets", &load.sockets.to_string()])
            .args(["--rooms", &load.rooms.to_string()])
            .args(["--transport", transport.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().ok_or("no input")?;
        let responses = BufReader::new(process.stdout.take().ok_or("no output")?);
        Ok(Audience {
            process,
            commands,
            responses,
        })
    }

    fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.commands, "{command}")?;
        let mut response = String::new();
        match self.responses.read_line(&mut response)? {
            0 => Err(format!("the audience ended during: {command}").into()),
            _ => Ok(response),
        }
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
