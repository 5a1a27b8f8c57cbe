//! Measures the time from the start of the dataflow to its first committed final. The topic has a backlog, and
//! reactions are written during the start, too.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use rdkafka::Offset;

use crate::{
    EmoStreamFlags, Result,
    cluster::{Cluster, PARTITIONS},
    drain::start_dataflow,
    steady::Load,
    table::median,
};

const PREFIX: &str = "start";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Records per second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Length of the backlog, in seconds
    #[arg(long, default_value_t = 60)]
    backlog: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    let topic = format!("{PREFIX}.reactions");
    cluster.recreate(&topic, PARTITIONS)?;
    let load = Load::start(&cluster, &topic, flags.rate)?;
    thread::sleep(Duration::from_secs(flags.backlog));
    let mut seconds = Vec::new();
    for _ in 0..flags.rounds {
        cluster.recreate_results(PREFIX)?;
        let finals = cluster.reader(&format!("{PREFIX}.windows"), Offset::Beginning)?;
        let begun = Instant::now();
        let mut dataflow = start_dataflow(flags.emostream.program()?, &flags.emostream, PREFIX)?;
        while !finals.next(Duration::from_millis(5), |_, _| {})? {
            dataflow.check_running()?;
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
