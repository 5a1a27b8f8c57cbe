//! `emostream`: the command line. Each subcommand is a file in `commands/`.
//!
//! ```text
//!  arguments, environment ──▶ flags ──validated──▶ configuration ──▶ run(configuration, shutdown)
//! ```
//!
//! The parts that every program on the engine has are in [`emostream_app`]: exit codes, signals, log lines, the flags
//! of Kafka and of a run, the admin address, and the thread of a dataflow.
//!
//! Invariants: after the validation of a command, its code gets parsed values and no unchecked strings. No port is
//! bound before the whole configuration is validated. Imports form no circle: `commands` imports `server`, `client` and
//! `topics`; these import `cli` and `permissions`; `cli` imports `log_socket` and `fd_limit`.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod cli;
mod client;
mod commands;
mod fd_limit;
mod log_socket;
mod permissions;
mod server;
mod topics;

use std::process::ExitCode;

use emostream_app::process::{Program, parsed};

use crate::commands::{Command, arguments, generate};

/// This program.
const PROGRAM: Program = Program {
    name: "emostream",
    version: env!("CARGO_PKG_VERSION"),
    revision: env!("EMOSTREAM_REVISION"),
};

fn main() -> ExitCode {
    PROGRAM.run(&arguments::arguments(), |matches, signals| {
        if let Some(dir) = generate::directory(matches) {
            return generate::run(&arguments::documented().complete(), &dir);
        }
        let command: Command = parsed(matches)?;
        command.run(signals)
    })
}
