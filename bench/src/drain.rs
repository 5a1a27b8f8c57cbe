//! Draining a backlog: how many events a CPU second.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use rdkafka::Offset;

use crate::{
    Ours, Outcome,
    backlog::{Format, Gathering, fill, past_crowd},
    child::Contender,
    cluster::Cluster,
    crowd::{Crowd, Names, Tallies},
    floor::Reader,
    peers::Peer,
    table::{self, Row, Run},
};

/// 20 rooms × 30 emojis: 600 keys.
const ROOMS: u32 = 20;
const EMOJIS: u32 = 30;

const PREFIX: &str = "bench";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    ours: Ours,
    /// How many reactions lie in the topic
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Seconds of event time over which they are spread
    #[arg(long, default_value_t = 600)]
    span: u64,
    /// Rounds of ours and the floor; medians are shown
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Peers to run on the same topic
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Rounds of the peers
    #[arg(long, default_value_t = 1)]
    peer_rounds: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn plain(flags: &Flags) -> Outcome<()> {
    compare(
        flags,
        Format::Plain,
        &[Reader::Nothing, Reader::SerdeJson, Reader::SonicRs],
    )
}

pub(crate) fn batches(flags: &Flags) -> Outcome<()> {
    compare(flags, Format::Batches, &[Reader::Nothing, Reader::Batch])
}

fn compare(flags: &Flags, format: Format, floors: &[Reader]) -> Outcome<()> {
    for peer in &flags.peers {
        peer.build()?;
    }
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    let topic = format!("{PREFIX}.reactions");
    let span = Duration::from_secs(flags.span);
    let crowd = past_crowd(ROOMS, EMOJIS, flags.records, span, flags.seed);
    let names = Names::of(&crowd)?;
    let begun = Instant::now();
    let truth = fill(&cluster, &topic, &crowd, &names, format)?;
    eprintln!(
        "{} {format:?} reactions, seed {}, filled in {:?}",
        flags.records,
        flags.seed,
        begun.elapsed()
    );

    let row = |name: String| Row {
        name,
        runs: Vec::new(),
    };
    let floor_name = |reader: &Reader| {
        let name = reader
            .to_possible_value()
            .map_or_else(String::new, |it| it.get_name().to_owned());
        format!("floor: {name}")
    };
    let mut rows: Vec<Row> = floors
        .iter()
        .map(|reader| row(floor_name(reader)))
        .collect();
    rows.push(row("emostream".to_owned()));
    for _ in 0..flags.rounds {
        // In turn, so that what else the machine does falls on all.
        for (row, reader) in rows.iter_mut().zip(floors) {
            row.runs
                .push(drain_by_floor(&flags.ours.kafka, &topic, *reader)?);
        }
        if let Some(row) = rows.last_mut() {
            row.runs.push(drain_by_ours(
                &flags.ours,
                &cluster,
                &crowd,
                &names,
                &truth,
            )?);
        }
    }
    for peer in &flags.peers {
        let runs: Outcome<Vec<Run>> = (0..flags.peer_rounds)
            .map(|_| peer.drain(&cluster, &topic, &crowd, &names, &truth))
            .collect();
        rows.push(Row {
            name: peer.name().to_owned(),
            runs: runs?,
        });
    }
    table::print(flags.records, &rows, "emostream");
    Ok(())
}

fn drain_by_floor(kafka: &str, topic: &str, reader: Reader) -> Outcome<Run> {
    let reader = reader
        .to_possible_value()
        .ok_or("a reader without a name")?;
    let begun = Instant::now();
    let mut floor = Contender::start(Command::new(std::env::current_exe()?).args([
        "floor",
        "--kafka",
        kafka,
        "--topic",
        topic,
        "--reader",
        reader.get_name(),
    ]))?;
    let counted = floor.hear("counted")?;
    Ok(Run {
        cpu: floor.cpu()?,
        wall: begun.elapsed(),
        peak_mb: floor.peak_mb()?,
        verdict: format!("{counted} read"),
    })
}

/// Drains it by the dataflow, from its start until the last final is committed and visible.
fn drain_by_ours(
    ours: &Ours,
    cluster: &Cluster,
    crowd: &Crowd,
    names: &Names,
    truth: &Tallies,
) -> Outcome<Run> {
    cluster.renew_results(PREFIX)?;
    let finals = cluster.finals(&format!("{PREFIX}.windows"), Offset::Beginning)?;
    let begun = Instant::now();
    let mut dataflow = start_ours(ours, PREFIX)?;
    let mut gathering = Gathering::new(truth, crowd);
    gathering.gather(
        &finals,
        |gathering, _, value| gathering.ours(value, names),
        || dataflow.check(),
    )?;
    let run = Run {
        cpu: dataflow.cpu()?,
        wall: begun.elapsed(),
        peak_mb: dataflow.peak_mb()?,
        verdict: gathering.verdict().text(),
    };
    eprintln!("ours: {run:?}");
    Ok(run)
}

/// Starts the dataflow as anybody would.
pub(crate) fn start_ours(ours: &Ours, prefix: &str) -> Outcome<Contender> {
    if !Path::new(&ours.program).exists() {
        return Err(format!("{} is not built; `make build`", ours.program.display()).into());
    }
    Contender::start(
        Command::new(&ours.program)
            .args(["dataflow", "--kafka", &ours.kafka, "--topic-prefix", prefix])
            .args(["--admin", "127.0.0.1:0"])
            .args(&ours.flags),
    )
}
