//! The clock and the timers of the operators of one worker.
//!
//! Operators do not use the system clock, nor timely's timers, which depend on the system clock. They use this module,
//! so that a simulation can advance the time by minutes at once.
//!
//! Invariant: the clock has an effect on when a window closes, but not on its contents.

#![allow(clippy::disallowed_methods, reason = "this module provides the clock")]

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use emostream_log::EventClock;
use timely::scheduling::Activator;

/// A clock of operators.
pub trait Clock: Send + Sync {
    /// Returns the monotonic time.
    fn now(&self) -> Instant;

    /// Returns the time since the Unix epoch.
    fn unix_time(&self) -> Duration;
}

/// The monotonic clock of the machine, and the clock that sets the times of events.
#[derive(Default)]
pub struct MachineClock(pub EventClock);

impl Clock for MachineClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_time(&self) -> Duration {
        self.0.unix_time()
    }
}

/// The timers of one worker. Clones share the same timers and are cheap.
#[derive(Clone)]
pub struct Timers(Rc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    due: RefCell<BTreeMap<Instant, Vec<Activator>>>,
}

impl Timers {
    /// Creates timers with this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Timers {
        let due = RefCell::default();
        Timers(Rc::new(Inner { clock, due }))
    }

    /// Returns the monotonic time of the clock.
    pub fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// Returns the time since the Unix epoch.
    pub fn unix_time(&self) -> Duration {
        self.0.clock.unix_time()
    }

    /// Sets a timer that activates an operator at `time`. A timer cannot be cancelled.
    pub fn at(&self, time: Instant, operator: Activator) {
        let mut due = self.0.due.borrow_mut();
        due.entry(time).or_default().push(operator);
    }

    /// Activates the operators whose timers are due. Returns the time until the next timer, or `None` if there is none.
    pub fn fire_due(&self) -> Option<Duration> {
        let mut due = self.0.due.borrow_mut();
        if due.is_empty() {
            return None;
        }
        let now = self.now();
        while let Some(first) = due.first_entry() {
            if *first.key() > now {
                return Some(*first.key() - now);
            }
            first.remove().iter().for_each(Activator::activate);
        }
        None
    }
}
