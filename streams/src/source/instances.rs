//! Warns of producers whose clocks are behind: what they write is late.
//!
//! A producer dates its events and names itself in a header of each record. A record that is older than what its
//! partition already holds by more than the lateness arrives after the windows of the others: its events are
//! rejected, and only the clock of that host can be corrected.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use emostream_log::Headers;
use emostream_protocol::INSTANCE_HEADER;

/// How often an instance is warned of at most.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The most instances that are remembered; beyond that all are forgotten, and warned of again.
const MAX_INSTANCES: usize = 1000;

/// The longest name that is remembered and logged; a host's name is shorter.
const MAX_NAME_BYTES: usize = 128;

/// The instances that one worker has warned of.
#[derive(Debug)]
pub struct Instances {
    lateness_ms: u64,
    warned: HashMap<String, Instant>,
}

impl Instances {
    /// None was warned of.
    pub fn new(lateness_ms: u64) -> Instances {
        Instances {
            lateness_ms,
            warned: HashMap::new(),
        }
    }

    /// A record with these headers was read that is `behind_ms` older than the newest one before it in its
    /// partition. Returns the instance if it is to be warned of.
    pub fn observe(
        &mut self,
        now: Instant,
        behind_ms: u64,
        headers: &dyn Headers,
    ) -> Option<String> {
        if behind_ms <= self.lateness_ms {
            return None;
        }
        let headers = headers.read();
        let header = headers
            .iter()
            .find(|header| header.name == INSTANCE_HEADER)?;
        let name = &header.value[..header.value.len().min(MAX_NAME_BYTES)];
        let instance = String::from_utf8_lossy(name).escape_debug().to_string();
        let recently = |at: &Instant| now.saturating_duration_since(*at) < WARN_EVERY;
        if self.warned.get(&instance).is_some_and(recently) {
            return None;
        }
        if self.warned.len() >= MAX_INSTANCES {
            self.warned.clear();
        }
        self.warned.insert(instance.clone(), now);
        Some(instance)
    }
}

#[cfg(test)]
mod tests {
    use emostream_log::Header;

    use super::*;

    fn headers(instance: &str) -> Vec<Header> {
        vec![Header {
            name: INSTANCE_HEADER.to_owned(),
            value: instance.to_owned().into(),
        }]
    }

    #[test]
    fn an_instance_that_lags_by_more_than_the_lateness_is_warned_of_once_a_minute() {
        let mut instances = Instances::new(750);
        let now = Instant::now();
        let (a, b) = (headers("a\u{1b}-1"), headers("b-2"));
        assert_eq!(instances.observe(now, 750, &a), None);
        let warned = instances.observe(now, 751, &a);
        assert_eq!(warned.as_deref(), Some("a\\u{1b}-1"));
        assert_eq!(instances.observe(now + WARN_EVERY / 2, 5000, &a), None);
        assert_eq!(instances.observe(now, 751, &b).as_deref(), Some("b-2"));
        assert!(instances.observe(now + WARN_EVERY, 751, &a).is_some());
        assert_eq!(
            instances.observe(now, 9999, &()),
            None,
            "another producer's"
        );
    }
}
