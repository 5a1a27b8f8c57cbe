//! A program, from the start of a process to its exit code.

use std::{env, process::ExitCode, time::Duration};

use clap::ArgMatches;

use super::{
    arguments::{Arguments, Parsed},
    exit::{Exit, Failure},
    logging::LogFormat,
    output, panic_hook,
    signal::Signals,
};

/// After a command has ended, maximum time that the program waits for blocking tasks that still run.
const CLOSING: Duration = Duration::from_millis(300);

/// A program: its name, version and revision, as messages and metrics contain them.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The name, which the message of an error begins with.
    pub name: &'static str,
    /// The version of this build.
    pub version: &'static str,
    /// The revision of the source from which it was built.
    pub revision: &'static str,
}

impl Program {
    /// Parses the arguments of the process and runs `command` with them. Returns the exit code. If the exit code is not
    /// 0, the last line on standard error contains the reason.
    pub fn run(
        self,
        arguments: &Arguments,
        command: impl FnOnce(&ArgMatches, Signals) -> Result<(), Failure>,
    ) -> ExitCode {
        let variable = format!("{}_LOG_FORMAT", arguments.prefix);
        let format = LogFormat::from_arguments(env::args_os(), &variable);
        let parse_and_run = |signals| {
            panic_hook::install(self.name, format);
            match arguments.parse(env::args_os()) {
                Parsed::Run(matches) => command(&matches, signals).map(|()| ExitCode::SUCCESS),
                Parsed::Print(text) => Ok(output::print_and_exit(&text)),
                Parsed::Invalid(line) => Err(Failure::new(Exit::Usage, line)),
            }
        };
        // The handlers are installed before anything else: a process with PID 1 ignores a signal for which it has no
        // handler, and a start may take seconds.
        let ended = Signals::listen().and_then(parse_and_run);
        ended.unwrap_or_else(|Failure { exit, message }| {
            let message = match exit {
                Exit::Usage => arguments.with_variables(&message, env::args_os()),
                _ => message,
            };
            format.print_end(self.name, &message, exit as i32);
            exit.into()
        })
    }
}

/// Runs a command on a tokio runtime. After the command has ended, this function does not wait for blocking calls,
/// since a log that does not respond could block them for long.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.enable_all().thread_name("emostream-net");
    let runtime = threads.build().map_err(|error| {
        Failure::unavailable(format!(
            "the threads of the tokio runtime cannot start: {error}"
        ))
    })?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(CLOSING);
    outcome
}
