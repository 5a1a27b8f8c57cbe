//! SIGTERM and SIGINT, received from the first line of `main` on.
//!
//! ```text
//!  main ──listen──▶ starting ──signal──▶ the process ends at once
//!                      │ take_over
//!                      ▼
//!                   running ──signal──▶ next() ──▶ the command drains
//! ```
//!
//! A process that is PID 1, as in a container, ignores both signals until it has a handler, and a start may
//! wait for a broker for many seconds.

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

use crate::exit::{Exit, Failure};

/// What a shell reports of a command that a signal ended is this plus the signal's number.
const ENDED_BY_SIGNAL: i32 = 128;

/// The signals that ask a process to end.
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

/// What a signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is nothing to drain yet: the process ends with 0.
    Starting,
    /// The process ends, and its exit code says that it has not done its work.
    Unfinished,
    /// The command is notified.
    Running,
}

/// The signals of this process.
pub(crate) struct Signals {
    phase: Arc<Mutex<Phase>>,
    received: mpsc::Receiver<Request>,
}

impl Signals {
    /// Receives the signals from now on, on a thread of its own. Until [`Signals::take_over`] the first one
    /// ends the process with 0.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_io().build();
        let runtime = runtime.map_err(unavailable)?;
        let mut handlers = runtime.block_on(async { Handlers::install() })?;
        let phase = Arc::new(Mutex::new(Phase::Starting));
        // One that waits says it all: a command asks for the next only when it can end.
        let (notify, received) = mpsc::channel(1);
        let current = phase.clone();
        let receive = move || {
            loop {
                let request = runtime.block_on(handlers.next());
                // The lock is held until the process is gone, so that no command takes over meanwhile.
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

    /// From now on a signal ends the process with the exit code that a shell reports of an interrupted
    /// command: a script must not go on as if the work was done.
    pub(crate) fn interrupt_work(&self) {
        *lock(&self.phase) = Phase::Unfinished;
    }

    /// From now on a signal is reported by [`Signals::next`] and does not end the process.
    pub(crate) fn take_over(&self) {
        *lock(&self.phase) = Phase::Running;
    }

    /// Waits for the next of them and returns its name.
    pub(crate) async fn next(&mut self) -> &'static str {
        match self.received.recv().await {
            Some(request) => request.name(),
            // The thread never ends before the process.
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

/// The handlers of the operating system.
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
