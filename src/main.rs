//! `emostream`: the crowd's mood, exact and within a second. One program, one file a subcommand.
//!
//! ```text
//!  arguments, environment ──▶ flags ──validated──▶ configuration ──▶ run(configuration, shutdown)
//! ```
//!
//! Invariant: nothing behind a command's validation sees a string that could still be wrong, and no
//! port is bound before all of the configuration is known to be good.

mod client;
mod commands;
mod defect;
mod exit;
mod flags;
mod logging;
mod open_files;
mod output;
mod settings;
mod signal;
mod text_file;
mod topics;
mod values;

use std::{io::Write, process::ExitCode};

use clap::FromArgMatches;

use crate::{commands::Command, flags::Parsed};

fn main() -> ExitCode {
    defect::end_the_process_on_panic();
    let command = match flags::parse(std::env::args_os()) {
        Parsed::Run(matches) => Command::from_arg_matches(&matches),
        Parsed::Say(text) => return output::say(&text),
        Parsed::Refuse(line) => return refuse(&line),
    };
    match command {
        Ok(command) => command.run().map_or_else(end, |()| ExitCode::SUCCESS),
        Err(error) => refuse(&flags::one_line(&error)),
    }
}

fn refuse(line: &str) -> ExitCode {
    end(exit::Failure::new(exit::Exit::Usage, line))
}

fn end(failure: exit::Failure) -> ExitCode {
    // Not eprintln!, which panics if standard error is gone.
    let _ = writeln!(std::io::stderr(), "emostream: {}", failure.sentence);
    failure.exit.into()
}
