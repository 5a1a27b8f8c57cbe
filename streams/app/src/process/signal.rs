//! Handles SIGTERM and SIGINT. The handlers are installed at the start of `main`.
//!
//! ```text
//!  main ──listen──▶ starting ──signal──▶ the process ends at once
//!                      │ take_over
//!                      ▼
//!                   running ──signal──▶ next() ──▶ the command drains
//! ```
//!
//! The handlers are installed so early for this reason: a process with PID 1, as in a container, ignores both signals
//! until it has handlers, and a start may wait for a broker for many seconds.

use std::{
    io, process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::exit::{Exit, Failure};

/// The base of the exit codes of interrupted commands. If a signal ends a command, shells report 128 plus the number of
/// the signal as its exit code.
const ENDED_BY_SIGNAL: i32 = 128;

/// A signal that requests the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Terminate,
    Interrupt,
}

impl Request {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    fn number(self) -> i32 {
        let kind = match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
        };
        kind.as_raw_value()
    }
}

/// The phases of a process, which decide what a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A signal ends the process with 0, because there is nothing to drain yet.
    Starting,
    /// A signal ends the process with the exit code of an interrupted command, because its work is not done.
    Unfinished,
    /// A signal makes [`Signals::next`] return, so that the command can drain.
    Running,
}

/// The receiver of the signals of this process.
pub struct Signals {
    phase: Arc<Mutex<Phase>>,
    received: mpsc::Receiver<Request>,
}

impl Signals {
    /// Installs the handlers, and starts a thread that receives the signals. Until [`Signals::take_over`] or
    /// [`Signals::interrupt_work`] is called, a signal ends the process with 0.
    pub fn listen() -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(unavailable)?;
        let mut handlers = runtime.block_on(async { Handlers::install() })?;
        let phase = Arc::new(Mutex::new(Phase::Starting));
        // The channel has space for one signal. A second signal is dropped, because one signal is enough to start the
        // drain.
        let (notify, received) = mpsc::channel(1);
        let current = phase.clone();
        let receive = move || {
            loop {
                let request = runtime.block_on(handlers.next());
                // The lock is held until the process has exited. Otherwise a command could call `take_over` and begin
                // its work before the exit.
                let phase = lock(&current);
                match *phase {
                    Phase::Running => drop(notify.try_send(request)),
                    Phase::Starting => end(request, 0),
                    Phase::Unfinished => end(request, ENDED_BY_SIGNAL + request.number()),
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(receive).map_err(unavailable)?;
        Ok(Self { phase, received })
    }

    /// From now on, a signal ends the process with the exit code of an interrupted command, so that a script does not
    /// continue as if the command had done its work.
    pub fn interrupt_work(&self) {
        *lock(&self.phase) = Phase::Unfinished;
    }

    /// Makes [`Signals::next`] return each signal. From now on signals no longer end the process.
    pub fn take_over(&self) {
        *lock(&self.phase) = Phase::Running;
    }

    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        match self.received.recv().await {
            Some(request) => request.name(),
            // The channel is never closed, because the thread that sends runs until the process exits.
            None => std::future::pending().await,
        }
    }
}

fn lock(phase: &Mutex<Phase>) -> MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}

fn end(request: Request, code: i32) -> ! {
    tracing::info!("{}: the process ends", request.name());
    process::exit(code)
}

/// The streams of the two signals.
struct Handlers {
    terminate: Signal,
    interrupt: Signal,
}

impl Handlers {
    fn install() -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(unavailable);
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Terminate,
            _ = self.interrupt.recv() => Request::Interrupt,
        }
    }
}

fn unavailable(error: io::Error) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("signals cannot be received: {error}"),
    )
}
