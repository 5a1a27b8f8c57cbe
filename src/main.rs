//! `emostream`: the command line. Each subcommand is a file in `commands/`.
//!
//! ```text
//!  arguments, environment ──▶ flags ──validated──▶ configuration ──▶ run(configuration, shutdown)
//! ```
//!
//! Invariants: after the validation of a command, its code gets parsed values and no unchecked strings. No port is
//! bound before the whole configuration is validated. Imports form no circle: `commands` imports `server`, `client` and
//! `topics`; these import `cli` and `permissions`; `cli` imports `log_socket` and `fd_limit`; all may import `logging`,
//! `output`, `signal` and `exit`.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod cli;
mod client;
mod commands;
mod exit;
mod fd_limit;
mod log_socket;
mod logging;
mod output;
mod panic_hook;
mod permissions;
mod server;
mod signal;
mod topics;

use std::process::ExitCode;

use clap::FromArgMatches;

use crate::{
    commands::{
        Command,
        arguments::{self, Parsed},
        generate,
    },
    exit::{Exit, Failure},
    logging::LogFormat,
    signal::Signals,
};

fn main() -> ExitCode {
    let format = LogFormat::from_arguments(std::env::args_os());
    let ended = match Signals::listen() {
        // The handlers are installed before anything else, because a process with PID 1 ignores signals without a
        // handler, and a start may take seconds.
        Ok(signals) => run(signals, format),
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(code) => code,
        Err(Failure { exit, message }) => {
            format.print_end(&message, exit as i32);
            exit.into()
        }
    }
}

fn run(signals: Signals, format: LogFormat) -> Result<ExitCode, Failure> {
    panic_hook::install(format);
    let command = match arguments::parse(std::env::args_os()) {
        Parsed::Run(matches) => Command::from_arg_matches(&matches),
        Parsed::Generate(dir) => {
            generate::run(&arguments::parser(), &dir)?;
            return Ok(ExitCode::SUCCESS);
        }
        Parsed::Print(text) => return Ok(output::print_and_exit(&text)),
        Parsed::Invalid(line) => return Err(usage_error(&line)),
    };
    let command = command.map_err(|error| usage_error(&arguments::one_line(&error)))?;
    match command.run(signals) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(failure) if failure.exit == Exit::Usage => Err(usage_error(&failure.message)),
        Err(failure) => Err(failure),
    }
}

/// Returns the failure for an invalid configuration. `message` names the flag; the environment variable is added to it
/// if one sets the flag.
fn usage_error(message: &str) -> Failure {
    let message = arguments::with_variables(message, std::env::args_os());
    Failure::new(Exit::Usage, message)
}
