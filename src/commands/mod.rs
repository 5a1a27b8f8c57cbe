//! The subcommands of the program. Each is in a file or folder of its own.

pub(crate) mod arguments;
mod dataflow;
pub(crate) mod generate;
mod ingest;
mod inspect;
mod load;
mod publisher;
#[cfg(test)]
mod reference;
mod relay;
mod reset;
mod subscribe;
mod topics;
mod up;

use clap::Parser;
use emostream_app::process::{Failure, LogFlags, Signals};
use tracing::level_filters::LevelFilter;

use crate::cli::examples;

/// The parsed arguments of the program: the flags for log lines, and one command.
#[derive(Debug, Parser)]
#[command(name = "emostream", version, about, arg_required_else_help = true)]
#[command(after_help = examples::EMOSTREAM)]
pub(crate) struct Command {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    subcommand: Subcommand,
}

#[derive(Debug, clap::Subcommand)]
enum Subcommand {
    /// Run all services in one process: ingest, dataflow, publisher and the web page
    #[command(after_help = examples::UP)]
    Up(Box<up::Flags>),
    /// Run the HTTP ingest service
    #[command(after_help = examples::INGEST)]
    Ingest(ingest::Flags),
    /// Run the dataflow that counts the reactions
    #[command(after_help = examples::DATAFLOW)]
    Dataflow(dataflow::Flags),
    /// Run the publisher, which sends results to subscribers
    #[command(after_help = examples::PUBLISHER)]
    Publisher(publisher::Flags),
    /// Run a relay, which sends the results of a publisher to more subscribers
    #[command(after_help = examples::RELAY)]
    Relay(relay::Flags),
    /// Show the results of a room in the terminal as they arrive
    #[command(after_help = examples::SUBSCRIBE)]
    Subscribe(subscribe::Flags),
    /// Print the records of a topic
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::Flags),
    /// Generate reactions, to test a deployment before an event
    #[command(after_help = examples::LOAD)]
    Load(load::Flags),
    /// Create the topics, or check them
    #[command(subcommand, after_help = examples::TOPICS)]
    Topics(topics::Action),
    /// Change the stored progress, if changed settings or deleted data prevent a start of the dataflow
    #[command(after_help = examples::RESET)]
    Reset(reset::Flags),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(self, signals: Signals) -> Result<(), Failure> {
        use Subcommand::{
            Dataflow, Ingest, Inspect, Load, Publisher, Relay, Reset, Subscribe, Topics, Up,
        };
        let format = self.log.format();
        self.log.start(match self.subcommand {
            Up(_) | Ingest(_) | Dataflow(_) | Publisher(_) | Relay(_) => LevelFilter::INFO,
            Subscribe(_) | Inspect(_) | Load(_) | Topics(_) | Reset(_) => LevelFilter::WARN,
        });
        match self.subcommand {
            Up(flags) => up::run(*flags, signals, format),
            Ingest(flags) => ingest::run(flags, signals, format),
            Dataflow(flags) => dataflow::run(flags, signals),
            Publisher(flags) => publisher::run(flags, signals, format),
            Relay(flags) => relay::run(flags, signals, format),
            Subscribe(flags) => subscribe::run(flags, signals),
            Inspect(flags) => inspect::run(flags, &signals),
            Load(flags) => load::run(flags, signals),
            Topics(action) => {
                signals.interrupt_work();
                topics::run(action)
            }
            Reset(flags) => {
                signals.interrupt_work();
                reset::run(flags)
            }
        }
    }
}
