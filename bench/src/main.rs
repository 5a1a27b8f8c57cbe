//! Measures EmoStream: one command for each figure. `make bench` lists them, and README.md has the results.
//!
//! ```text
//!           crowd (by seed) ──fill──▶ Kafka ──▶ measured process: EmoStream, a baseline, or a peer
//!             │                         ▲               │ CPU seconds, resident memory from /proc
//!             └─expected▶ compare ◀─────┴── finals ◀────┘
//! ```
//!
//! Each measured program is a child process, whose CPU time and memory are read from /proc. The expected tallies are
//! computed from the crowd, and all results are compared with them.

mod backlog;
mod baseline;
mod cluster;
mod crowd;
mod decode;
mod drain;
mod fanout;
mod ingest;
mod machine;
mod measured_process;
mod peers;
mod relays;
mod rooms;
mod rounds;
mod start;
mod steady;
mod table;
mod tap;

use backlog::Format;
use clap::{Args, Parser, Subcommand};
use machine::Machine;

/// The result of a function that may fail. The first error ends the measurement.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Debug, Subcommand)]
enum Figure {
    /// Drain a backlog of plain JSON, compared with a baseline and, with --peers, with Kafka Streams or Flink
    Drain(drain::Flags),
    /// Drain a backlog of batches
    Batches(drain::Flags),
    /// Count the words of lines of text, with the word count of `streams/examples` and with --peers
    Words(drain::Flags),
    /// Time from the end of a window until its final result is visible, at a steady rate; CPU and memory
    Steady(steady::Flags),
    /// Time from a POST in a quiet room until a WebSocket subscriber has a frame with the reaction
    Tap(tap::Flags),
    /// Duration of a close with many rooms and emojis
    Rooms(rooms::Flags),
    /// Memory over half an hour of event time
    Memory(rooms::MemoryFlags),
    /// Time from the start of the process to its first final result, while it restores the totals of many rooms
    Restore(rooms::RestoreFlags),
    /// Time from the start of the process to its first committed final result, with a minute's backlog
    Start(start::Flags),
    /// Cost of a POST, compared with hyper alone, and with axum and rdkafka
    Ingest(ingest::Flags),
    /// Cost of a delivery, compared with a plain server; slow readers, reconnect storms
    Fanout(fanout::Flags),
    /// Cost of relays for a publisher, and the delay that a hop adds
    Relays(relays::Flags),
    /// Decoding of records without Kafka
    Decode,
    /// The baseline of `drain`, which starts it as a child process
    #[command(hide = true)]
    Baseline(baseline::Flags),
    /// The baseline of `ingest`
    #[command(hide = true)]
    HttpBaseline(ingest::baseline::Flags),
    /// The plain server of `fanout`
    #[command(hide = true)]
    FanoutPlain(fanout::results::Flags),
    /// The baseline of `fanout`
    #[command(hide = true)]
    FanoutBaseline(fanout::results::Flags),
    /// The subscribers of `fanout`
    #[command(hide = true)]
    FanoutAudience(fanout::audience::Flags),
}

/// Flags of the measured EmoStream.
#[derive(Debug, Clone, Args)]
struct EmoStreamFlags {
    /// Kafka's bootstrap servers; `tests/kafka/kafka.sh run` sets the variable
    #[arg(long, env = "EMOSTREAM_TEST_KAFKA")]
    kafka: String,
    /// Path of the program to measure. The default is the program in target/release. `drain`, `batches`, `words`,
    /// `steady` and `rooms` measure several programs in turn, and compare the last one with each of the others
    #[arg(long)]
    program: Vec<String>,
    /// Additional flags for `emostream dataflow`
    #[arg(long, value_delimiter = ' ', allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// Path of the program to measure if none is given.
const EMOSTREAM: &str = "target/release/emostream";

impl EmoStreamFlags {
    /// Returns the programs to measure: `default` if none is given.
    fn programs(&self, default: &str) -> Vec<String> {
        match self.program.is_empty() {
            true => vec![default.to_owned()],
            false => self.program.clone(),
        }
    }

    /// Returns the program to measure, for a figure that measures only one program.
    fn program(&self) -> Result<&str> {
        match &self.program[..] {
            [] => Ok(EMOSTREAM),
            [program] => Ok(program),
            _ => Err("this figure measures one --program".into()),
        }
    }
}

fn main() -> Result<()> {
    let figure = Cli::parse().figure;
    let child = matches!(
        figure,
        Figure::Baseline(_)
            | Figure::HttpBaseline(_)
            | Figure::FanoutPlain(_)
            | Figure::FanoutBaseline(_)
            | Figure::FanoutAudience(_)
    );
    if child {
        return measure(figure);
    }
    let before = Machine::now()?;
    measure(figure)?;
    println!("\n{}", before.since()?);
    Ok(())
}

fn measure(figure: Figure) -> Result<()> {
    match figure {
        Figure::Drain(flags) => drain::run(&flags, Format::Plain),
        Figure::Batches(flags) => drain::run(&flags, Format::Batches),
        Figure::Words(flags) => drain::run(&flags, Format::Lines),
        Figure::Steady(flags) => steady::run(&flags),
        Figure::Tap(flags) => tap::run(&flags),
        Figure::Rooms(flags) => rooms::run(&flags),
        Figure::Memory(flags) => rooms::memory(&flags),
        Figure::Restore(flags) => rooms::restore(&flags),
        Figure::Start(flags) => start::run(&flags),
        Figure::Ingest(flags) => ingest::run(&flags),
        Figure::Relays(flags) => relays::run(&flags),
        Figure::HttpBaseline(flags) => ingest::baseline::run(&flags),
        Figure::Fanout(flags) => fanout::run(&flags),
        Figure::FanoutPlain(flags) => fanout::plain::run(&flags),
        Figure::FanoutBaseline(flags) => fanout::baseline::run(&flags),
        Figure::FanoutAudience(flags) => fanout::audience::run(flags),
        Figure::Decode => decode::run(),
        Figure::Baseline(flags) => baseline::run(&flags),
    }
}
