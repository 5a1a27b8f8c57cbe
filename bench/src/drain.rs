//! Measures how fast a backlog is counted: events for each second of CPU time. EmoStream counts reactions, and the word
//! count of `streams/examples` counts words.

use std::{
    fmt,
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;
use rdkafka::Offset;

use crate::{
    EMOSTREAM, EmoStreamFlags, Result,
    backlog::{Backlog, Format, ResultCollector, past_crowd},
    baseline::Reader,
    cluster::{Cluster, PARTITIONS},
    measured_process::MeasuredProcess,
    peers::Peer,
    rounds::in_turn,
    table::{self, Row, Run},
};

/// Number of rooms of the crowd. With 30 emojis in each room, there are 600 keys.
const ROOMS: u32 = 20;
const EMOJIS: u32 = 30;

const PREFIX: &str = "bench";

/// Prefix of the topics of the word count.
const WORDS_PREFIX: &str = "words";

/// Path of the word count, which `make bench FIGURE=words` builds.
const WORD_COUNT: &str = "target/release/examples/word_count";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Number of events in the topic: reactions or words
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Seconds of event time over which the events are spread
    #[arg(long, default_value_t = 600)]
    span: u64,
    /// Number of rounds. In each round every program drains the topic once
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Baselines to compare with. The default is all baselines that read such records; the flag without a value means
    /// none
    #[arg(long, num_args = 0.., value_delimiter = ',')]
    floors: Option<Vec<Reader>>,
    /// Peers (Kafka Streams, Flink) that count the same topic, for comparison
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Peer>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A program that drains the topic.
enum Program {
    Floor(Reader),
    /// EmoStream or the word count. The value is the path of the program.
    Ours(String),
    Peer(Peer),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::Floor(reader) => write!(f, "floor: {}", reader.name()),
            Program::Ours(program) => f.write_str(program),
            Program::Peer(peer) => f.write_str(peer.name()),
        }
    }
}

pub(crate) fn run(flags: &Flags, format: Format) -> Result<()> {
    for peer in &flags.peers {
        peer.build()?;
    }
    let (topic, program, floors): (String, &str, &[Reader]) = match format {
        Format::Plain => (
            format!("{PREFIX}.reactions"),
            EMOSTREAM,
            &[Reader::Nothing, Reader::SerdeJson, Reader::SonicRs],
        ),
        Format::Batches => (
            format!("{PREFIX}.reactions"),
            EMOSTREAM,
            &[Reader::Nothing, Reader::Batch],
        ),
        Format::Lines => (format!("{WORDS_PREFIX}.lines"), WORD_COUNT, &[]),
    };
    let span = Duration::from_secs(flags.span);
    let crowd = past_crowd(ROOMS, EMOJIS, flags.records, span, flags.seed);
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    let begun = Instant::now();
    let backlog = Backlog::fill(cluster, topic, &crowd, format)?;
    eprintln!(
        "{} events as {format:?}, seed {}, filled in {:?}",
        flags.records,
        flags.seed,
        begun.elapsed()
    );

    let ours = flags.emostream.programs(program);
    let floors = flags.floors.as_deref().unwrap_or(floors);
    let floors = floors.iter().copied().map(Program::Floor);
    let newest = floors.len() + ours.len() - 1;
    let ours = ours.into_iter().map(Program::Ours);
    let peers = flags.peers.iter().copied().map(Program::Peer);
    let programs: Vec<Program> = floors.chain(ours).chain(peers).collect();
    let runs = in_turn(&programs, flags.rounds, |program| match program {
        Program::Floor(reader) => drain_by_baseline(&backlog, *reader),
        Program::Ours(program) => drain_by_ours(&backlog, program, &flags.emostream),
        Program::Peer(peer) => peer.drain(&backlog),
    })?;
    let row = |(program, runs): (&Program, Vec<Run>)| Row {
        name: program.to_string(),
        runs,
    };
    let rows: Vec<Row> = programs.iter().zip(runs).map(row).collect();
    table::print(flags.records, &rows, &rows[newest]);
    Ok(())
}

/// Runs a baseline until it has read the topic, and measures it.
fn drain_by_baseline(backlog: &Backlog, reader: Reader) -> Result<Run> {
    let begun = Instant::now();
    let mut baseline = MeasuredProcess::start(Command::new(std::env::current_exe()?).args([
        "baseline",
        "--kafka",
        backlog.cluster.brokers(),
        "--topic",
        &backlog.topic,
        "--reader",
        &reader.name(),
    ]))?;
    let counted = baseline.wait_for_line("counted")?;
    Ok(Run {
        usage: baseline.usage()?,
        wall: begun.elapsed(),
        peak_mb: baseline.peak_mb()?,
        comparison: format!("{counted} read"),
    })
}

/// Measures EmoStream's dataflow, or the word count, from its start until its last final result is committed and
/// visible.
fn drain_by_ours(backlog: &Backlog, program: &str, flags: &EmoStreamFlags) -> Result<Run> {
    let lines = backlog.format == Format::Lines;
    let (prefix, finals) = match lines {
        true => (WORDS_PREFIX, format!("{WORDS_PREFIX}.counts")),
        false => (PREFIX, format!("{PREFIX}.windows")),
    };
    backlog.cluster.recreate_results(prefix)?;
    backlog.cluster.recreate(&finals, PARTITIONS)?;
    let finals = backlog.cluster.reader(&finals, Offset::Beginning)?;
    let begun = Instant::now();
    let mut process = match lines {
        true => start_word_count(program, flags)?,
        false => start_dataflow(program, flags, PREFIX)?,
    };
    let mut collector = ResultCollector::new(backlog);
    collector.collect(
        &finals,
        |collector, _, value| match lines {
            true => collector.add_word(value),
            false => collector.add_final(value),
        },
        || process.check_running(),
    )?;
    Ok(Run {
        usage: process.usage()?,
        wall: begun.elapsed(),
        peak_mb: process.peak_mb()?,
        comparison: collector.compare().text(),
    })
}

/// Starts the word count with its default flags.
fn start_word_count(program: &str, flags: &EmoStreamFlags) -> Result<MeasuredProcess> {
    MeasuredProcess::start(
        Command::new(program)
            .args(["--kafka", &flags.kafka, "--application-id", WORDS_PREFIX])
            .args(["--admin", "127.0.0.1:0"])
            .args(&flags.flags),
    )
}

/// Starts the dataflow of this program with its default flags.
pub(crate) fn start_dataflow(
    program: &str,
    emostream: &EmoStreamFlags,
    prefix: &str,
) -> Result<MeasuredProcess> {
    MeasuredProcess::start(
        Command::new(program)
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
