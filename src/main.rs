//! `emostream`: the crowd's mood, exact and within a second. One program, one file a subcommand.
//!
//! ```text
//!  arguments, environment ──▶ flags ──validated──▶ configuration ──▶ run(configuration, shutdown)
//! ```
//!
//! Invariant: nothing behind a command's validation sees a string that could still be wrong, and no
//! port is bound before all of the configuration is known to be good.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod cli;
mod client;
mod commands;
mod defect;
mod exit;
mod log_socket;
mod logging;
mod open_files;
mod output;
mod permissions;
mod server;
mod signal;
mod topics;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::{
    cli::parsing::{self, Parsed},
    commands::Command,
    exit::{Exit, Failure},
    logging::LogFormat,
    signal::Signals,
};

fn main() -> ExitCode {
    let format = LogFormat::asked_for(std::env::args_os());
    let ended = match Signals::listen() {
        // Before anything that takes time: PID 1 ignores signals that it has no handler for.
        Ok(signals) => run(signals, format),
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(code) => code,
        Err(Failure { exit, sentence }) => {
            format.print_end(&sentence, exit as i32);
            exit.into()
        }
    }
}

fn run(signals: Signals, format: LogFormat) -> Result<ExitCode, Failure> {
    defect::end_the_process_on_panic(format);
    let command = match parsing::parse(std::env::args_os()) {
        Parsed::Run(matches) => Command::from_arg_matches(&matches),
        Parsed::Say(text) => return Ok(output::say(&text)),
        Parsed::Refuse(line) => return Err(refused(&line)),
    };
    let command = command.map_err(|error| refused(&parsing::one_line(&error)))?;
    match command.run(signals) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) if failure.exit == Exit::Usage => Err(refused(&failure.sentence)),
        Err(failure) => Err(failure),
    }
}

/// A wrong configuration; `complaint` names the flag, and this the variable that sets it.
fn refused(complaint: &str) -> Failure {
    let sentence = parsing::with_variables(complaint, std::env::args_os());
    Failure::new(Exit::Usage, sentence)
}
