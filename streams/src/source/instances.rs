//! Detects producers whose clocks are behind, since their events are late.
//!
//! A producer sets the times of its events, and writes its name into a header of each record. A record may be older
//! than the newest record before it in its partition by more than the lateness. Its events are then late if their
//! windows are closed. The engine cannot fix that: the clock of the producer's host must be corrected.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use emostream_log::Headers;
use emostream_protocol::INSTANCE_HEADER;

/// Minimum time between two warnings about an instance.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Maximum number of instances in the table. If there are more, the table is cleared. The worker may then warn about an
/// instance again before [`WARN_EVERY`] has passed.
const MAX_INSTANCES: usize = 1000;

/// Maximum bytes of an instance's name in the table and in log messages; the rest is cut off. Names of hosts are
/// shorter.
const MAX_NAME_BYTES: usize = 128;

/// The instances (producers, as named in a header of their records) about which one worker has warned.
#[derive(Debug)]
pub struct Instances {
    lateness_ms: u64,
    warned: HashMap<String, Instant>,
}

impl Instances {
    /// Creates an empty table.
    pub fn new(lateness_ms: u64) -> Instances {
        Instances {
            lateness_ms,
            warned: HashMap::new(),
        }
    }

    /// Handles a record with these headers that is `behind_ms` older than the newest record before it in its partition.
    /// Returns the name of the instance if a warning about it is due.
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
