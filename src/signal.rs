//! SIGTERM and SIGINT: the operator's wish that the process drains and ends.

use std::{io, process, thread};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::exit::{Exit, Failure};

/// Has the first signal end the process with 0. For commands that only read and print, which may end
/// anywhere.
pub(crate) fn end_at_the_first() -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(unavailable)?;
    let mut signals = runtime.block_on(async { Signals::listen() })?;
    let wait = move || {
        runtime.block_on(signals.next());
        process::exit(0);
    };
    let waiting = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait);
    waiting.map(drop).map_err(unavailable)
}

/// The signals that ask for a drain.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(unavailable);
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn unavailable(error: io::Error) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("signals cannot be received: {error}"),
    )
}
