//! EmoStream's figures, one command each; `make bench` lists them and README.md keeps what they showed.
//!
//! ```text
//!           crowd (by seed) ──fill──▶ Kafka ──▶ contender (a process of its own: ours, the floor, a peer)
//!             │                         ▲               │ CPU seconds, resident memory from /proc
//!             └──truth──▶ compare ◀─────┴── finals ◀────┘
//! ```
//!
//! A contender is a child process, so that its CPU is its own. What it must have counted is known
//! from the crowd alone, so "fast" never stands for "wrong".

mod backlog;
mod child;
mod cluster;
mod crowd;
mod decode;
mod drain;
mod fanout;
mod floor;
mod ingest;
mod peers;
mod relays;
mod rooms;
mod start;
mod steady;
mod table;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// What any of this may fail of; a bench ends with it.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    figure: Figure,
}

#[derive(Debug, Subcommand)]
enum Figure {
    /// Drain a backlog of plain JSON beside the floor, and beside the peers if asked to
    Drain(drain::Flags),
    /// Drain a backlog of our own batches
    Batches(drain::Flags),
    /// A steady rate: from the end of a window to its visible final, CPU and memory meanwhile
    Steady(steady::Flags),
    /// Many rooms and emojis: how long a close takes
    Rooms(rooms::Flags),
    /// Half an hour of event time: whether memory stays flat
    Memory(rooms::MemoryFlags),
    /// From the start of the process to its first final, while it restores the totals of many rooms
    Restore(rooms::RestoreFlags),
    /// From the start of the process to its first committed final, with a minute's backlog
    Start(start::Flags),
    /// What a POST costs, beside hyper alone, and axum with rdkafka
    Ingest(ingest::Flags),
    /// What a delivery costs beside a plain server, slow readers, herds
    Fanout(fanout::Flags),
    /// What relays cost a publisher, and what a hop adds
    Relays(relays::Flags),
    /// Reading records alone, without Kafka
    Decode,
    /// The floor itself, started by `drain` as a process of its own
    #[command(hide = true)]
    Floor(floor::Flags),
    /// The floor of `ingest`
    #[command(hide = true)]
    HttpFloor(ingest::floor::Flags),
    /// The plain server of `fanout`
    #[command(hide = true)]
    FanoutPlain(fanout::results::Flags),
    /// The floor of `fanout`
    #[command(hide = true)]
    FanoutFloor(fanout::results::Flags),
    /// The audience of `fanout`
    #[command(hide = true)]
    FanoutAudience(fanout::audience::Flags),
}

/// Where the contenders are.
#[derive(Debug, Clone, Args)]
struct Ours {
    /// Kafka's brokers; `tests/kafka/kafka.sh run` sets it
    #[arg(long, env = "EMOSTREAM_TEST_KAFKA")]
    kafka: String,
    /// The program
    #[arg(long, default_value = "target/release/emostream")]
    program: PathBuf,
    /// Further flags for `emostream dataflow`
    #[arg(long, value_delimiter = ' ', allow_hyphen_values = true)]
    flags: Vec<String>,
}

fn main() -> Outcome<()> {
    match Cli::parse().figure {
        Figure::Drain(flags) => drain::plain(&flags),
        Figure::Batches(flags) => drain::batches(&flags),
        Figure::Steady(flags) => steady::run(&flags),
        Figure::Rooms(flags) => rooms::run(&flags),
        Figure::Memory(flags) => rooms::memory(&flags),
        Figure::Restore(flags) => rooms::restore(&flags),
        Figure::Start(flags) => start::run(&flags),
        Figure::Ingest(flags) => ingest::run(&flags),
        Figure::Relays(flags) => relays::run(&flags),
        Figure::HttpFloor(flags) => ingest::floor::run(&flags),
        Figure::Fanout(flags) => fanout::run(&flags),
        Figure::FanoutPlain(flags) => fanout::plain::run(&flags),
        Figure::FanoutFloor(flags) => fanout::floor::run(&flags),
        Figure::FanoutAudience(flags) => fanout::audience::run(flags),
        Figure::Decode => decode::run(),
        Figure::Floor(flags) => floor::run(&flags),
    }
}
