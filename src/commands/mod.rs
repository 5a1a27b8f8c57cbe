//! What the program does: one file a subcommand.

mod dataflow;
mod ingest;
mod inspect;
mod load;
mod roles;
mod subscribe;
mod topics;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::{exit::Failure, logging::LogFlags};

/// The crowd's mood, exact and within a second.
#[derive(Debug, Parser)]
#[command(name = "emostream", version, about, arg_required_else_help = true)]
#[command(after_help = "Every flag also reads EMOSTREAM_<FLAG> from the environment.")]
pub(crate) struct Command {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Run the HTTP ingest service
    Ingest(ingest::Flags),
    /// Run the dataflow that counts
    Dataflow(dataflow::Flags),
    /// Follow a room in the terminal
    Subscribe(subscribe::Flags),
    /// Read a topic
    Inspect(inspect::Flags),
    /// Send a crowd's reactions, for rehearsals
    Load(load::Flags),
    /// Create the topics on Kafka
    #[command(subcommand)]
    Topics(topics::Action),
}

impl Command {
    /// Does it, to its end.
    pub(crate) fn run(self) -> Result<(), Failure> {
        use What::{Dataflow, Ingest, Inspect, Load, Subscribe, Topics};
        self.log.start(match self.what {
            Ingest(_) | Dataflow(_) => LevelFilter::INFO,
            Subscribe(_) | Inspect(_) | Load(_) | Topics(_) => LevelFilter::WARN,
        });
        match self.what {
            Ingest(flags) => ingest::run(flags),
            Dataflow(flags) => dataflow::run(flags),
            Subscribe(flags) => subscribe::run(flags),
            Inspect(flags) => inspect::run(flags),
            Load(flags) => load::run(flags),
            Topics(action) => topics::run(action),
        }
    }
}

/// A runtime for a command that talks over the network.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.enable_all().thread_name("emostream-net");
    threads.build().map_err(|error| {
        Failure::unavailable(format!(
            "threads for the network cannot be started: {error}"
        ))
    })
}
