//! Standard output, whose reader may go away (`| head`): then the command ends quietly.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use crate::exit::{Exit, Failure};

/// Writes `text` and ends well, also if nobody reads it.
pub(crate) fn say(text: &str) -> ExitCode {
    print(text).map_or_else(
        |failure| failure.map_or(ExitCode::SUCCESS, |f| f.exit.into()),
        |()| ExitCode::SUCCESS,
    )
}

/// Writes `text` now. `Err(None)` if the reader has gone: end quietly.
pub(crate) fn print(text: &str) -> Result<(), Option<Failure>> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => None,
        _ => Some(Failure::new(
            Exit::Unavailable,
            format!("standard output cannot be written: {error}"),
        )),
    })
}

/// What `print` says, as a command's end: a reader that has gone is a good end.
pub(crate) fn quietly(ended: Result<(), Option<Failure>>) -> Result<(), Failure> {
    match ended {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(failure)) => Err(failure),
    }
}
