//! Measures the cost of a POST: the server's CPU time for each request at saturation, the delays of responses under an
//! open-loop load, and the server's memory.
//!
//! All servers run all the time, and are measured in turn, so that other load on the host affects all of them.

pub(crate) mod baseline;
pub(crate) mod client;

use std::{
    collections::BTreeMap,
    env::current_exe,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    EmoStreamFlags, Result,
    cluster::{Cluster, PARTITIONS},
    measured_process::MeasuredProcess,
    table::{median, quantile},
};
use client::{Clients, LoadMode, Responses};

const PREFIX: &str = "ingest";

/// Number of reactions in a request with an array.
const ARRAY_REACTIONS: usize = 50;

/// Number of connections at saturation.
const CONNECTIONS: usize = 64;

/// Number of connections in the measurements of a large crowd.
const MANY_CONNECTIONS: usize = 512;

const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Number of rounds; the table shows medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Duration of each measurement, in seconds
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Requests per second under the open-loop load
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Requests per second, each with an array of reactions. The server rejects requests that the log cannot store in
    /// time
    #[arg(long, default_value_t = 3000)]
    array_rate: u32,
    /// Also measure a server with axum and rdkafka, which is built from bench/axum
    #[arg(long)]
    axum: bool,
}

/// A server, and the measurements of its rounds.
struct Server {
    name: &'static str,
    process: MeasuredProcess,
    address: SocketAddr,
    path: String,
    single_us: Vec<f64>,
    array_us: Vec<f64>,
    p99_ms: Vec<f64>,
    many_p99_ms: Vec<f64>,
    /// Resident memory before the first request.
    idle_mb: f64,
    /// Resident memory after the measurement with single reactions, and before the one with arrays.
    saturated_mb: f64,
    /// For each status other than 202, the number of responses. If there are any, the load was lower than intended.
    other_statuses: BTreeMap<u16, usize>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    cluster.recreate(&format!("{PREFIX}.reactions"), PARTITIONS)?;
    let mut servers = vec![start_baseline()?, start_emostream(&flags.emostream)?];
    if flags.axum {
        servers.push(start_axum(&flags.emostream.kafka)?);
    }
    for server in &mut servers {
        server.crowd(flags)?;
    }
    for _ in 0..flags.rounds {
        for server in &mut servers {
            server.measure(flags)?;
        }
    }
    println!(
        "| server | µs CPU a POST | of the floor | µs CPU an array of {ARRAY_REACTIONS} | of the floor | p99 ms at {}/s | p99 ms, {MANY_CONNECTIONS} saturating | resident MB: idle | after {MANY_CONNECTIONS} saturating | at the end | answers other than 202 |",
        flags.rate
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let (single, array) = (servers[0].single(), servers[0].array());
    for server in &servers {
        println!(
            "| {} | {:.1} | {:.2} | {:.1} | {:.2} | {:.2} | {:.1} | {:.1} | {:.1} | {:.1} | {} |",
            server.name,
            server.single(),
            server.single() / single,
            server.array(),
            server.array() / array,
            median(server.p99_ms.clone()),
            median(server.many_p99_ms.clone()),
            server.idle_mb,
            server.saturated_mb,
            server.process.resident_mb()?,
            server.other_responses(),
        );
    }
    Ok(())
}

impl Server {
    fn new(name: &'static str, process: MeasuredProcess, url: &str) -> Result<Server> {
        let url = url.trim_start_matches("http://");
        let (address, path) = url.split_at(url.find('/').unwrap_or(url.len()));
        let idle_mb = process.resident_mb()?;
        Ok(Server {
            name,
            process,
            address: address.parse()?,
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            single_us: Vec::new(),
            array_us: Vec::new(),
            p99_ms: Vec::new(),
            many_p99_ms: Vec::new(),
            idle_mb,
            saturated_mb: 0.0,
            other_statuses: BTreeMap::new(),
        })
    }

    /// Measures the memory of a server after requests with single reactions for three times the duration of a
    /// measurement.
    fn crowd(&mut self, flags: &Flags) -> Result<()> {
        let many = self.clients(reactions(1), MANY_CONNECTIONS, LoadMode::ClosedLoop);
        let responses = many.post(3 * Duration::from_secs(flags.seconds))?;
        self.accepted(responses);
        self.saturated_mb = self.process.resident_mb()?;
        Ok(())
    }

    fn measure(&mut self, flags: &Flags) -> Result<()> {
        let span = Duration::from_secs(flags.seconds);
        let every = |rate| LoadMode::OpenLoop(Duration::from_secs(1) / rate);
        let single = self.cost_us(reactions(1), LoadMode::ClosedLoop, span)?;
        self.single_us.push(single);
        let array = self.cost_us(reactions(ARRAY_REACTIONS), every(flags.array_rate), span)?;
        self.array_us.push(array);
        let open = self.clients(reactions(1), CONNECTIONS, every(flags.rate));
        let mut delays = self.accepted(open.post(span)?);
        self.p99_ms.push(quantile(&mut delays, 0.99));
        let many = self.clients(reactions(1), MANY_CONNECTIONS, LoadMode::ClosedLoop);
        let mut delays = self.accepted(many.post(span)?);
        self.many_p99_ms.push(quantile(&mut delays, 0.99));
        self.process.check_running()
    }

    /// Returns the CPU time for each request, in µs.
    fn cost_us(&mut self, body: String, mode: LoadMode, span: Duration) -> Result<f64> {
        let clients = self.clients(body, CONNECTIONS, mode);
        let responses = clients.post(WARM_UP)?;
        self.accepted(responses);
        let before = self.process.cpu()?;
        let responses = clients.post(span)?;
        let requests = responses.total();
        self.accepted(responses);
        let used = self.process.cpu()? - before;
        Ok(used.as_secs_f64() * 1e6 / requests as f64)
    }

    /// Returns the delays of responses with 202, in ms. The other responses are only counted, for the table.
    fn accepted(&mut self, responses: Responses) -> Vec<f64> {
        for (status, count) in responses.other_statuses {
            *self.other_statuses.entry(status).or_default() += count;
        }
        responses.delays
    }

    fn other_responses(&self) -> String {
        let statuses = self.other_statuses.iter();
        let statuses = statuses.map(|(status, count)| format!("{count} × {status}"));
        match statuses.collect::<Vec<_>>() {
            none if none.is_empty() => "none".to_owned(),
            some => some.join(", "),
        }
    }

    fn clients(&self, body: String, connections: usize, mode: LoadMode) -> Clients {
        Clients {
            server: self.address,
            path: self.path.clone(),
            connections,
            body,
            mode,
        }
    }

    fn single(&self) -> f64 {
        median(self.single_us.clone())
    }

    fn array(&self) -> f64 {
        median(self.array_us.clone())
    }
}

/// Encodes the body of a request: one reaction, or an array of several.
fn reactions(count: usize) -> String {
    let reaction = |n: usize| {
        format!(
            r#"{{"user_id":"user-{}","emoji_type":"🔥","timestamp":1764000000123,"room":"match-{}"}}"#,
            n * 7919 % 1000,
            n % 20
        )
    };
    match count {
        1 => reaction(17),
        _ => format!(
            "[{}]",
            (0..count).map(reaction).collect::<Vec<_>>().join(",")
        ),
    }
}

fn start_baseline() -> Result<Server> {
    let mut process = MeasuredProcess::start(Command::new(current_exe()?).arg("http-baseline"))?;
    let address = process.wait_for_line("listening")?;
    Server::new("floor: hyper", process, &address)
}

fn start_emostream(emostream: &EmoStreamFlags) -> Result<Server> {
    let mut process = MeasuredProcess::start(
        Command::new(emostream.program()?)
            .args([
                "ingest",
                "--kafka",
                &emostream.kafka,
                "--topic-prefix",
                PREFIX,
            ])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(&emostream.flags),
    )?;
    let url = process.wait_for_address()?;
    Server::new("emostream", process, &url)
}

/// Builds and starts the server with axum. The server is in a workspace of its own, so that its dependencies do not
/// affect the dependencies of this workspace.
fn start_axum(brokers: &str) -> Result<Server> {
    let built = Command::new("cargo")
        .args([
            "build",
            "--release",
            "--manifest-path",
            "bench/axum/Cargo.toml",
        ])
        .args(["--target-dir", "target/peers"])
        .status()?;
    if !built.success() {
        return Err("bench/axum does not build".into());
    }
    let begun = Instant::now();
    let mut process = MeasuredProcess::start(
        Command::new("target/peers/release/axum-peer").args([brokers, "ingest.axum"]),
    )?;
    let address = process.wait_for_line("listening")?;
    eprintln!("axum is up after {:?}", begun.elapsed());
    Server::new("axum + rdkafka", process, &address)
}
