//! What a POST costs: CPU of the server process a request at saturation, delays of an open loop, memory.
//!
//! Every server runs all the time, and they are measured in turn, so that each round's ratios are of
//! the same minute.

pub(crate) mod floor;

mod client;

use std::{
    collections::BTreeMap,
    env::current_exe,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    Ours, Outcome,
    child::Contender,
    cluster::{Cluster, PARTITIONS},
    table::{median, quantile},
};
use client::{Pace, Phones, Posted};

const PREFIX: &str = "ingest";

/// Reactions of an array.
const ARRAY: usize = 50;

/// Connections at saturation.
const CONNECTIONS: usize = 64;

/// Connections of a crowd.
const MANY: usize = 512;

const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    ours: Ours,
    /// Rounds; medians are shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Requests a second of the open loop
    #[arg(long, default_value_t = 2000)]
    rate: u32,
    /// Arrays a second: below what the log takes, or they are refused
    #[arg(long, default_value_t = 3000)]
    array_rate: u32,
    /// Also measure axum with rdkafka (bench/axum, built on first use)
    #[arg(long)]
    axum: bool,
}

/// A server, and what its rounds showed.
struct Server {
    name: &'static str,
    process: Contender,
    address: SocketAddr,
    path: String,
    single_us: Vec<f64>,
    array_us: Vec<f64>,
    p99_ms: Vec<f64>,
    many_p99_ms: Vec<f64>,
    /// Before anything came; after a crowd that saturates, and before arrays.
    idle_mb: f64,
    saturated_mb: f64,
    /// Answers other than 202, by status: with them the figures are of less than was asked for.
    refused: BTreeMap<u16, usize>,
}

pub(crate) fn run(flags: &Flags) -> Outcome<()> {
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    cluster.renew(&format!("{PREFIX}.reactions"), PARTITIONS)?;
    let mut servers = vec![start_floor()?, start_ours(&flags.ours)?];
    if flags.axum {
        servers.push(start_axum(&flags.ours.kafka)?);
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
        "| server | µs CPU a POST | of the floor | µs CPU an array of {ARRAY} | of the floor | p99 ms at {}/s | p99 ms, {MANY} saturating | resident MB: idle | after {MANY} saturating | at the end | answers other than 202 |",
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
            server.refusals(),
        );
    }
    Ok(())
}

impl Server {
    fn new(name: &'static str, process: Contender, url: &str) -> Outcome<Server> {
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
            refused: BTreeMap::new(),
        })
    }

    /// What many single requests leave it with, three times as long as a measurement.
    fn crowd(&mut self, flags: &Flags) -> Outcome<()> {
        let many = self.phones(reactions(1), MANY, Pace::Saturating);
        let posted = many.post(3 * Duration::from_secs(flags.seconds))?;
        self.accepted(posted);
        self.saturated_mb = self.process.resident_mb()?;
        Ok(())
    }

    fn measure(&mut self, flags: &Flags) -> Outcome<()> {
        let span = Duration::from_secs(flags.seconds);
        let every = |rate| Pace::Every(Duration::from_secs(1) / rate);
        let single = self.cost_us(reactions(1), Pace::Saturating, span)?;
        self.single_us.push(single);
        let array = self.cost_us(reactions(ARRAY), every(flags.array_rate), span)?;
        self.array_us.push(array);
        let open = self.phones(reactions(1), CONNECTIONS, every(flags.rate));
        let mut delays = self.accepted(open.post(span)?);
        self.p99_ms.push(quantile(&mut delays, 0.99));
        let many = self.phones(reactions(1), MANY, Pace::Saturating);
        let mut delays = self.accepted(many.post(span)?);
        self.many_p99_ms.push(quantile(&mut delays, 0.99));
        self.process.check()
    }

    /// CPU a request, in µs.
    fn cost_us(&mut self, body: String, pace: Pace, span: Duration) -> Outcome<f64> {
        let phones = self.phones(body, CONNECTIONS, pace);
        let posted = phones.post(WARM_UP)?;
        self.accepted(posted);
        let before = self.process.cpu()?;
        let posted = phones.post(span)?;
        let requests = posted.answers();
        self.accepted(posted);
        let used = self.process.cpu()? - before;
        Ok(used.as_secs_f64() * 1e6 / requests as f64)
    }

    /// The delays of what was accepted; what was not is shown in the table.
    fn accepted(&mut self, posted: Posted) -> Vec<f64> {
        for (status, answers) in posted.refused {
            *self.refused.entry(status).or_default() += answers;
        }
        posted.delays
    }

    fn refusals(&self) -> String {
        let refused = self.refused.iter();
        let refused = refused.map(|(status, answers)| format!("{answers} × {status}"));
        match refused.collect::<Vec<_>>() {
            none if none.is_empty() => "none".to_owned(),
            some => some.join(", "),
        }
    }

    fn phones(&self, body: String, connections: usize, pace: Pace) -> Phones {
        Phones {
            server: self.address,
            path: self.path.clone(),
            connections,
            body,
            pace,
        }
    }

    fn single(&self) -> f64 {
        median(self.single_us.clone())
    }

    fn array(&self) -> f64 {
        median(self.array_us.clone())
    }
}

/// One reaction, or an array.
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

fn start_floor() -> Outcome<Server> {
    let mut process = Contender::start(Command::new(current_exe()?).arg("http-floor"))?;
    let address = process.hear("listening")?;
    Server::new("floor: hyper", process, &address)
}

fn start_ours(ours: &Ours) -> Outcome<Server> {
    let mut process = Contender::start(
        Command::new(&ours.program)
            .args(["ingest", "--kafka", &ours.kafka, "--topic-prefix", PREFIX])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(&ours.flags),
    )?;
    let url = process.hear("taking reactions at ")?;
    Server::new("emostream", process, &url)
}

/// As one would write it: built beside the workspace, since nothing else here needs axum.
fn start_axum(brokers: &str) -> Outcome<Server> {
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
    let mut process = Contender::start(
        Command::new("target/peers/release/axum-peer").args([brokers, "ingest.axum"]),
    )?;
    let address = process.hear("listening")?;
    eprintln!("axum is up after {:?}", begun.elapsed());
    Server::new("axum + rdkafka", process, &address)
}
