//! What the program does: one file a subcommand.

mod dataflow;
mod ingest;
mod inspect;
mod load;
mod publisher;
mod relay;
mod reset;
mod subscribe;
mod topics;
mod up;

use std::time::Duration;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::{cli::examples, exit::Failure, logging::LogFlags, signal::Signals};

/// What is left to close when a command has ended.
const CLOSING: Duration = Duration::from_millis(300);

/// The crowd's mood, exact and within a second.
#[derive(Debug, Parser)]
#[command(name = "emostream", version, about, arg_required_else_help = true)]
#[command(after_help = examples::EMOSTREAM)]
pub(crate) struct Command {
    #[command(flatten)]
    log: LogFlags,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Run everything in one process: ingest, dataflow, publisher and the page
    #[command(after_help = examples::UP)]
    Up(Box<up::Flags>),
    /// Run the HTTP ingest service
    #[command(after_help = examples::INGEST)]
    Ingest(ingest::Flags),
    /// Run the dataflow that counts
    #[command(after_help = examples::DATAFLOW)]
    Dataflow(dataflow::Flags),
    /// Run the publisher that serves subscribers
    #[command(after_help = examples::PUBLISHER)]
    Publisher(publisher::Flags),
    /// Run a relay that serves subscribers of a publisher elsewhere
    #[command(after_help = examples::RELAY)]
    Relay(relay::Flags),
    /// Follow a room in the terminal
    #[command(after_help = examples::SUBSCRIBE)]
    Subscribe(subscribe::Flags),
    /// Read a topic
    #[command(after_help = examples::INSPECT)]
    Inspect(inspect::Flags),
    /// Send a crowd's reactions, for rehearsals
    #[command(after_help = examples::LOAD)]
    Load(load::Flags),
    /// Create the topics, or check them
    #[command(subcommand, after_help = examples::TOPICS)]
    Topics(topics::Action),
    /// Let the dataflow go on with other settings, or in a log that was truncated
    #[command(after_help = examples::RESET)]
    Reset(reset::Flags),
}

impl Command {
    /// Does it, to its end.
    pub(crate) fn run(self, signals: Signals) -> Result<(), Failure> {
        use What::{
            Dataflow, Ingest, Inspect, Load, Publisher, Relay, Reset, Subscribe, Topics, Up,
        };
        let format = self.log.format();
        self.log.start(match self.what {
            Up(_) | Ingest(_) | Dataflow(_) | Publisher(_) | Relay(_) => LevelFilter::INFO,
            Subscribe(_) | Inspect(_) | Load(_) | Topics(_) | Reset(_) => LevelFilter::WARN,
        });
        match self.what {
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

/// Runs a command that talks over the network. A log that does not answer is not waited for at the end.
fn run<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.enable_all().thread_name("emostream-net");
    let runtime = threads.build().map_err(|error| {
        Failure::unavailable(format!(
            "threads for the network cannot be started: {error}"
        ))
    })?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(CLOSING);
    outcome
}
