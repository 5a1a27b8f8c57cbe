//! Whether the log takes what is written, told by the flights that leave and land.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use emostream_http::Component;
use emostream_log::LogError;

/// A log that acknowledges nothing for this long is away: well above a slow broker's commit, well below
/// the time after which flights are given up.
const SILENCE: Duration = Duration::from_secs(2);

/// Turns landings, and their absence, into readiness.
#[derive(Debug)]
pub(crate) struct Health {
    component: Component,
    flights: Mutex<Flights>,
}

#[derive(Debug, Default)]
struct Flights {
    /// When each flight that has not landed left, by its number.
    under_way: BTreeMap<u64, Instant>,
    /// The newest flight that has landed: an older one says nothing about now.
    newest_landed: Option<u64>,
}

impl Health {
    pub(crate) fn new(component: Component) -> Self {
        Self {
            component,
            flights: Mutex::default(),
        }
    }

    /// A flight leaves; tells of a log that has been silent for too long.
    pub(crate) fn left(&self, number: u64, now: Instant) {
        let mut flights = self.flights();
        flights.under_way.insert(number, now);
        let oldest = flights.under_way.first_key_value();
        let silent = oldest.map_or(Duration::ZERO, |(_, left)| {
            now.saturating_duration_since(*left)
        });
        if silent >= SILENCE {
            let seconds = silent.as_secs();
            let reason = format!("the log has acknowledged nothing for {seconds} s");
            self.component.not_ready(reason);
        }
    }

    /// A flight has landed, whole or with a failure.
    pub(crate) fn landed(&self, number: u64, failure: Option<&LogError>) {
        let mut flights = self.flights();
        flights.under_way.remove(&number);
        if flights.newest_landed.is_some_and(|newest| newest > number) {
            return;
        }
        flights.newest_landed = Some(number);
        match failure {
            None => self.component.ready(),
            Some(error) => self.component.not_ready(error.to_string()),
        }
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emostream_http::Readiness;

    #[test]
    fn readiness_follows_the_newest_landing_and_a_silent_log_is_not_ready() {
        let readiness = Readiness::new();
        let health = Health::new(readiness.component("ingest"));
        let start = Instant::now();
        assert!(readiness.check().is_err(), "nothing has been written yet");
        for number in 0..3 {
            health.left(number, start);
        }
        health.landed(0, None);
        assert_eq!(readiness.check(), Ok(()));
        health.landed(2, Some(&LogError::Full));
        let reason = readiness.check().expect_err("the newest failed");
        assert!(reason.contains("queue is full"), "{reason}");
        health.landed(1, None);
        assert!(
            readiness.check().is_err(),
            "an older flight says nothing about now"
        );
        health.left(3, start);
        health.landed(3, None);
        assert_eq!(readiness.check(), Ok(()));
        health.left(4, start);
        health.left(5, start + SILENCE / 2);
        assert_eq!(readiness.check(), Ok(()));
        health.left(6, start + SILENCE);
        let reason = readiness.check().expect_err("silent for too long");
        assert!(reason.ends_with("acknowledged nothing for 2 s"), "{reason}");
    }
}
