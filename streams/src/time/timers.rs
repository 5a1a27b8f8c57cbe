//! What time it is for the operators of one worker, and which of them run again when.
//!
//! Operators read no clock and set no timer of timely's, which knows the machine's time only: both are
//! here, so that a simulation can let minutes pass in no time.
//!
//! Invariant: time changes when a window closes, never what it holds.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use emostream_log::EventClock;
use timely::scheduling::Activator;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// It never goes back.
    fn now(&self) -> Instant;

    /// The time since the Unix epoch.
    fn unix_time(&self) -> Duration;
}

/// The machine's monotonic clock, and the clock that dates events.
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

/// The timers of one worker; cheap to clone.
#[derive(Clone)]
pub struct Timers(Rc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    due: RefCell<BTreeMap<Instant, Vec<Activator>>>,
}

impl Timers {
    /// Timers that go by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Timers {
        let due = RefCell::default();
        Timers(Rc::new(Inner { clock, due }))
    }

    /// The clock's time.
    pub fn now(&self) -> Instant {
        self.0.clock.now()
    }

    /// The time since the Unix epoch.
    pub fn unix_time(&self) -> Duration {
        self.0.clock.unix_time()
    }

    /// Runs an operator again at `time`. It cannot be taken back.
    pub fn at(&self, time: Instant, operator: Activator) {
        let mut due = self.0.due.borrow_mut();
        due.entry(time).or_default().push(operator);
    }

    /// Runs again what is due, and tells how long it is to the next.
    pub fn ring(&self) -> Option<Duration> {
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
