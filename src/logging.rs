//! Logs: what the process does, on standard error, for people or for machines.

use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// How much is logged, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogFlags {
    /// Log more: -v the steps, -vv everything (RUST_LOG=target=level is finer)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// How log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

impl LogFlags {
    /// Starts logging. `quietest` is the level without `-v`: a server says what it does, a tool only
    /// what is wrong.
    pub(crate) fn start(&self, quietest: LevelFilter) {
        let level = match self.verbose {
            0 => quietest,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        let filter = EnvFilter::builder()
            .with_default_directive(level.into())
            .from_env_lossy();
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            // Told by eprintln!, which panics once nobody reads standard error any more.
            .log_internal_errors(false)
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => lines.compact().with_target(false).init(),
            LogFormat::Json => lines.json().flatten_event(true).init(),
        }
    }
}
