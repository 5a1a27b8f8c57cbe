//! Measures how fast a backlog is counted: events for each second of CPU time.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use rdkafka::Offset;

use crate::{
    EmoStreamFlags, Result,
    backlog::{Format, ResultCollector, fill, past_crowd},
    baseline::Reader,
    cluster::Cluster,
    crowd::{Crowd, Names, Tallies},
    measured_process::MeasuredProcess,
    peers::Peer,
    table::{self, Row, Run},
};

/// Number of rooms of the crowd. With 30 emojis in each room, there are 600 keys.
const ROOMS: u32 = 20;
const EMOJIS: u32 = 30;

const PREFIX: &str = "bench";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Number of reactions in the topic
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Seconds of event time over which the reactions are spread
    #[arg(long, default_value_t = 600)]
    span: u64,
    /// Number of rounds of EmoStream and the baseline; the table shows medians
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Peers (Kafka Streams, Flink) that count the same topic, for comparison
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Number of rounds of each peer (Kafka Streams or Flink)
    #[arg(long, default_value_t = 1)]
    peer_rounds: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn plain(flags: &Flags) -> Result<()> {
    compare(
        flags,
        Format::Plain,
        &[Reader::Nothing, Reader::SerdeJson, Reader::SonicRs],
    )
}

pub(crate) fn batches(flags: &Flags) -> Result<()> {
    compare(flags, Format::Batches, &[Reader::Nothing, Reader::Batch])
}

fn compare(flags: &Flags, format: Format, baselines: &[Reader]) -> Result<()> {
    for peer in &flags.peers {
        peer.build()?;
    }
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    let topic = format!("{PREFIX}.reactions");
    let span = Duration::from_secs(flags.span);
    let crowd = past_crowd(ROOMS, EMOJIS, flags.records, span, flags.seed);
    let names = Names::of(&crowd)?;
    let begun = Instant::now();
    let expected = fill(&cluster, &topic, &crowd, &names, format)?;
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
    let baseline_name = |reader: &Reader| {
        let name = reader
            .to_possible_value()
            .map_or_else(String::new, |it| it.get_name().to_owned());
        format!("floor: {name}")
    };
    let mut rows: Vec<Row> = baselines
        .iter()
        .map(|reader| row(baseline_name(reader)))
        .collect();
    rows.push(row("emostream".to_owned()));
    for _ in 0..flags.rounds {
        // The programs run in turn, so that other load on the host affects all of them.
        for (row, reader) in rows.iter_mut().zip(baselines) {
            row.runs
                .push(drain_by_baseline(&flags.emostream.kafka, &topic, *reader)?);
        }
        if let Some(row) = rows.last_mut() {
            row.runs.push(drain_by_dataflow(
                &flags.emostream,
                &cluster,
                &crowd,
                &names,
                &expected,
            )?);
        }
    }
    for peer in &flags.peers {
        let runs: Result<Vec<Run>> = (0..flags.peer_rounds)
            .map(|_| peer.drain(&cluster, &topic, &crowd, &names, &expected))
            .collect();
        rows.push(Row {
            name: peer.name().to_owned(),
            runs: runs?,
        });
    }
    table::print(flags.records, &rows, "emostream");
    Ok(())
}

/// Runs a baseline until it has read the topic, and measures it.
fn drain_by_baseline(kafka: &str, topic: &str, reader: Reader) -> Result<Run> {
    let reader = reader
        .to_possible_value()
        .ok_or("a reader without a name")?;
    let begun = Instant::now();
    let mut baseline = MeasuredProcess::start(Command::new(std::env::current_exe()?).args([
        "baseline",
        "--kafka",
        kafka,
        "--topic",
        topic,
        "--reader",
        reader.get_name(),
    ]))?;
    let counted = baseline.wait_for_line("counted")?;
    Ok(Run {
        cpu: baseline.cpu()?,
        wall: begun.elapsed(),
        peak_mb: baseline.peak_mb()?,
        comparison: format!("{counted} read"),
    })
}

/// Measures the dataflow from its start until the last final is committed and visible.
fn drain_by_dataflow(
    emostream: &EmoStreamFlags,
    cluster: &Cluster,
    crowd: &Crowd,
    names: &Names,
    expected: &Tallies,
) -> Result<Run> {
    cluster.recreate_results(PREFIX)?;
    let finals = cluster.reader(&format!("{PREFIX}.windows"), Offset::Beginning)?;
    let begun = Instant::now();
    let mut dataflow = start_dataflow(emostream, PREFIX)?;
    let mut collector = ResultCollector::new(expected, crowd);
    collector.collect(
        &finals,
        |collector, _, value| collector.add_final(value, names),
        || dataflow.check_running(),
    )?;
    let run = Run {
        cpu: dataflow.cpu()?,
        wall: begun.elapsed(),
        peak_mb: dataflow.peak_mb()?,
        comparison: collector.compare().text(),
    };
    eprintln!("emostream: {run:?}");
    Ok(run)
}

/// Starts the dataflow with its default flags.
pub(crate) fn start_dataflow(emostream: &EmoStreamFlags, prefix: &str) -> Result<MeasuredProcess> {
    if !Path::new(&emostream.program).exists() {
        return Err(format!("{} is not built; `make build`", emostream.program.display()).into());
    }
    MeasuredProcess::start(
        Command::new(&emostream.program)
            .args([
                "dataflow",
                "--kafka",
                &emostream.kafka,
                "--topic-prefix",
                prefix,
            ])
            .args(["--admin", "127.0.0.1:0"])
            .args(&emostream.flags),
    )
}
