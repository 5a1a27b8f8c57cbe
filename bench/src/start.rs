//! From the start of the process to its first committed final, with a minute's backlog and the crowd
//! still tapping.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use rdkafka::Offset;

use crate::{
    Ours, Outcome,
    cluster::{Cluster, PARTITIONS},
    drain::start_ours,
    steady::Load,
    table::median,
};

const PREFIX: &str = "start";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    ours: Ours,
    /// Records a second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Seconds of backlog
    #[arg(long, default_value_t = 60)]
    backlog: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

pub(crate) fn run(flags: &Flags) -> Outcome<()> {
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    let topic = format!("{PREFIX}.reactions");
    cluster.renew(&topic, PARTITIONS)?;
    let load = Load::start(&cluster, &topic, flags.rate)?;
    thread::sleep(Duration::from_secs(flags.backlog));
    let mut seconds = Vec::new();
    for _ in 0..flags.rounds {
        cluster.renew_results(PREFIX)?;
        let finals = cluster.finals(&format!("{PREFIX}.windows"), Offset::Beginning)?;
        let begun = Instant::now();
        let mut dataflow = start_ours(&flags.ours, PREFIX)?;
        while !finals.next(Duration::from_millis(5), |_, _| {})? {
            dataflow.check()?;
        }
        seconds.push(begun.elapsed().as_secs_f64());
    }
    load.stop()?;
    println!("| backlog s | records/s | to the first final s, each | median |");
    println!("|---|---|---|---|");
    println!(
        "| {} | {} | {seconds:.2?} | {:.2} |",
        flags.backlog,
        flags.rate,
        median(seconds.clone())
    );
    Ok(())
}
