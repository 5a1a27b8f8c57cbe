//! Measures the cost of a delivery: a server reads results from Kafka and sends them as frames to ten thousand sockets.
//!
//! ```text
//!                               ┌▶ emostream publisher ─┐
//!  feed ─live, finals──▶ Kafka ─┼▶ plain server ────────┼─▶ audience: a process of its own, one thread, epoll
//!                               └▶ baseline ────────────┘       delays by `emitted_at`
//! ```
//!
//! The plain server has a task for each socket and uses `tokio::sync::broadcast`, tokio-tungstenite and rdkafka with
//! default settings. The baseline only writes prepared bytes to each socket, so its CPU time is that of the kernel. The
//! servers are measured in turn, so that other load on the host affects all of them.

pub(crate) mod audience;
pub(crate) mod baseline;
pub(crate) mod plain;
pub(crate) mod results;

mod feed;
mod scenario;
mod transport;

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::{EmoStreamFlags, Result, cluster::Cluster, table::median};
use audience::Figures;
use scenario::{FanoutScenario, Server};
use transport::Transport;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// The measurements to run
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "delivery,rooms,slow,herds"
    )]
    parts: Vec<Part>,
    /// Number of rounds of `delivery` and `rooms`. The tables show the medians of the rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Duration of each measurement, in seconds
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Number of sockets of the large audience
    #[arg(long, default_value_t = 10_000)]
    sockets: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// CPU and delay of a delivery, memory of a connection, compared with the plain server
    Delivery,
    /// Many small rooms, compared with a large one
    Rooms,
    /// The audience does not read one in a hundred sockets
    Slow,
    /// Server-Sent Events over HTTP/1.1 and HTTP/2, compared with WebSockets
    Sse,
    /// All subscribers connect at once; some reconnect all the time; response times of health checks
    Herds,
}

/// The load of a measurement: number of sockets, number of rooms, and frames a second in each room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) sockets: usize,
    pub(crate) rooms: usize,
    pub(crate) rate: u32,
}

impl Flags {
    fn large(&self) -> Load {
        Load {
            sockets: self.sockets,
            rooms: 1,
            rate: 4,
        }
    }

    fn quick(&self) -> Load {
        Load {
            sockets: self.sockets / 5,
            rooms: 1,
            rate: 20,
        }
    }

    fn many_rooms(&self) -> Load {
        Load {
            rooms: self.sockets / 10,
            ..self.large()
        }
    }

    fn span(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    for part in &flags.parts {
        match part {
            Part::Delivery => delivery(flags, &cluster)?,
            Part::Rooms => rooms(flags, &cluster)?,
            Part::Slow => slow(flags, &cluster)?,
            Part::Sse => sse(flags, &cluster)?,
            Part::Herds => herds(flags, &cluster)?,
        }
    }
    Ok(())
}

/// The measurements of one round.
struct Measured {
    figures: Figures,
    cpu_us: f64,
    /// Memory of a connection in KB: of the server alone, and of the server and the kernel together.
    memory_kb: (f64, f64),
}

fn measure(scenario: &mut FanoutScenario, span: Duration) -> Result<Measured> {
    let before = scenario.server_cpu()?;
    let figures = scenario.measure(span)?;
    let used = scenario.server_cpu()? - before;
    Ok(Measured {
        cpu_us: used.as_secs_f64() * 1e6 / figures.deliveries as f64,
        memory_kb: scenario.memory_kb()?,
        figures,
    })
}

fn print_head() {
    println!(
        "| server | load | µs CPU a delivery | of plain's | p50 ms | p99 ms | KB a connection | and the kernel's |"
    );
    println!("|---|---|---|---|---|---|---|---|");
}

/// Prints the medians of the rounds as a row, and returns the CPU time of a delivery in µs.
fn print_row(name: &str, load: Load, runs: &[Measured], plain_us: Option<f64>) -> f64 {
    let of = |figure: fn(&Measured) -> f64| median(runs.iter().map(figure).collect());
    let cpu_us = of(|run| run.cpu_us);
    let ratio = plain_us.map_or("–".to_owned(), |plain| format!("{:.2}", cpu_us / plain));
    println!(
        "| {} | {} × {} Hz, {} rooms | {cpu_us:.1} | {ratio} | {:.0} | {:.0} | {:.1} | {:.1} |",
        name,
        load.sockets,
        load.rate,
        load.rooms,
        of(|run| run.figures.p50_ms),
        of(|run| run.figures.p99_ms),
        of(|run| run.memory_kb.0),
        of(|run| run.memory_kb.1),
    );
    cpu_us
}

fn rounds(
    flags: &Flags,
    cluster: &Cluster,
    servers: &[(Server, Load, Transport)],
) -> Result<Vec<Vec<Measured>>> {
    let mut runs: Vec<Vec<Measured>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..flags.rounds {
        for ((server, load, transport), runs) in servers.iter().zip(&mut runs) {
            let mut scenario =
                FanoutScenario::open(*server, &flags.emostream, cluster, *load, *transport)?;
            scenario.fill()?;
            runs.push(measure(&mut scenario, flags.span())?);
        }
    }
    Ok(runs)
}

fn delivery(flags: &Flags, cluster: &Cluster) -> Result<()> {
    print_head();
    for load in [flags.large(), flags.quick()] {
        let servers = [Server::Plain, Server::Baseline, Server::EmoStream];
        let runs = rounds(
            flags,
            cluster,
            &servers.map(|server| (server, load, Transport::Websocket)),
        )?;
        let plain_us = print_row(servers[0].name(), load, &runs[0], None);
        for (server, runs) in servers.into_iter().zip(&runs).skip(1) {
            print_row(server.name(), load, runs, Some(plain_us));
        }
    }
    Ok(())
}

fn rooms(flags: &Flags, cluster: &Cluster) -> Result<()> {
    let servers = [
        (Server::EmoStream, flags.large(), Transport::Websocket),
        (Server::EmoStream, flags.many_rooms(), Transport::Websocket),
    ];
    let runs = rounds(flags, cluster, &servers)?;
    print_head();
    let one_us = print_row(Server::EmoStream.name(), flags.large(), &runs[0], None);
    let many_us = print_row(Server::EmoStream.name(), flags.many_rooms(), &runs[1], None);
    println!("\nmany rooms cost {:.2} of one", many_us / one_us);
    Ok(())
}

/// Compares the transports. The ratios in the table are relative to WebSockets.
fn sse(flags: &Flags, cluster: &Cluster) -> Result<()> {
    let transports = [Transport::Websocket, Transport::Sse, Transport::SseHttp2];
    let of = |transport| (Server::EmoStream, flags.large(), transport);
    let runs = rounds(flags, cluster, &transports.map(of))?;
    print_head();
    let mut websocket_us = None;
    for (transport, runs) in transports.into_iter().zip(&runs) {
        let cpu_us = print_row(transport.name(), flags.large(), runs, websocket_us);
        websocket_us.get_or_insert(cpu_us);
    }
    Ok(())
}

/// Time during which some sockets are not read.
const STALL: Duration = Duration::from_secs(20);

fn slow(flags: &Flags, cluster: &Cluster) -> Result<()> {
    let mut scenario = FanoutScenario::open(
        Server::EmoStream,
        &flags.emostream,
        cluster,
        flags.large(),
        Transport::Websocket,
    )?;
    scenario.fill()?;
    let before = scenario.measure(STALL)?;
    let resident = scenario.server_kb()?;
    let stalled = flags.sockets / 100;
    let during = scenario.stall(stalled, STALL)?;
    let grown = (scenario.server_kb()? - resident) / stalled as f64;
    let after = scenario.measure(flags.span())?;
    println!(
        "\n| {stalled} of {} stop reading for {STALL:?} | before | meanwhile | after |",
        flags.sockets
    );
    println!("|---|---|---|---|");
    println!(
        "| p99 ms of those who read | {:.0} | {:.0} | {:.0} |",
        before.p99_ms, during.p99_ms, after.p99_ms
    );
    println!(
        "| KB that the server grew by a stalled one | | {grown:.2} | |\n\
         | finals lost or out of order, all sockets | {} | {} | {} |",
        before.lost, during.lost, after.lost
    );
    Ok(())
}

/// Number of subscribers that reconnect each second.
const CHURN: u32 = 500;

fn herds(flags: &Flags, cluster: &Cluster) -> Result<()> {
    let mut scenario = FanoutScenario::open(
        Server::EmoStream,
        &flags.emostream,
        cluster,
        flags.large(),
        Transport::Websocket,
    )?;
    let storm = scenario.fill()?;
    let calm = scenario.measure(flags.span())?;
    let before = scenario.server_cpu()?;
    let churn = scenario.churn(CHURN, flags.span())?;
    let churn_cpu = scenario.server_cpu()? - before;
    let health_ms = scenario.health(flags.span())?;
    println!("\n| {} connect at once | |", flags.sockets);
    println!("|---|---|");
    println!(
        "| all have their first state after, s | {:.2} |",
        storm.as_secs_f64()
    );
    println!(
        "| p99 ms in the calm, and while {CHURN}/s come and go | {:.0}, {:.0} |",
        calm.p99_ms, churn.p99_ms
    );
    println!(
        "| server CPU of a core while they do | {:.2} |",
        churn_cpu.as_secs_f64() / flags.span().as_secs_f64()
    );
    println!("| slowest of /healthz and /metrics while all are written to, ms | {health_ms:.0} |");
    Ok(())
}
