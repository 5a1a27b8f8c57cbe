//! Tracks which partitions of the log are available. A partition is available as long as it acknowledges the records
//! that are sent to it.
//!
//! ```text
//!              no acknowledgement for 2 s, or refused
//!   available ───────────────────────────────────────▶ unavailable     the others get its share
//!             ◀───────────────────────────────────────
//!              the next record is acknowledged
//! ```
//!
//! If the leader of a partition fails, no reaction is lost, since the other partitions get the reactions of that
//! partition. If no partition is available, the service accepts no reactions until a partition is available again.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_http::Component;
use emostream_log::LogError;
use prometheus::IntGauge;

/// Time without an acknowledgement after which a partition counts as unavailable. It is far longer than a slow broker
/// needs to acknowledge a record. If the log fails and then this process crashes, at most the reactions that were
/// accepted within this time are lost.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Tracks the acknowledgements of each partition. Selects the partitions that each flush writes to, and sets the
/// readiness of the ingest.
#[derive(Debug)]
pub(crate) struct PartitionHealth {
    component: Component,
    unavailable: IntGauge,
    /// Whether no partition is available. It is atomic and outside of the mutex, since every request reads it.
    none_available: AtomicBool,
    deliveries: Mutex<Deliveries>,
}

#[derive(Debug, Default)]
struct Deliveries {
    next_ticket: u64,
    partitions: Vec<Partition>,
    has_acknowledged: bool,
}

#[derive(Debug, Default)]
struct Partition {
    /// For each record in flight, the time at which it was sent. The key is the ticket of the record.
    in_flight: BTreeMap<u64, Instant>,
    /// Ticket of the newest record with a result. The result of an older record is ignored, since it does not show the
    /// present state of the partition.
    newest_completed: Option<u64>,
    last_sent: Option<Instant>,
    refusal: Option<String>,
    /// Whether the partition was unavailable at the last update.
    is_unavailable: bool,
}

/// The partitions that a flush writes to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FlushTargets {
    /// The partitions that get reactions: all available ones or, if none is available, all partitions, since the
    /// accepted reactions have to be written somewhere.
    pub(crate) writable: Vec<u32>,
    /// The partitions that get a heartbeat if they get no reactions: the available ones, and from time to time an
    /// unavailable one, to detect its recovery.
    pub(crate) heartbeat: Vec<u32>,
}

impl PartitionHealth {
    pub(crate) fn new(component: Component, unavailable: IntGauge) -> Self {
        Self {
            component,
            unavailable,
            none_available: AtomicBool::new(false),
            deliveries: Mutex::default(),
        }
    }

    /// Returns whether no partition is available, so that no reaction can be accepted.
    pub(crate) fn none_available(&self) -> bool {
        self.none_available.load(Ordering::Relaxed)
    }

    /// Returns the partitions that a flush to a topic of `partitions` partitions writes to.
    pub(crate) fn flush_targets(&self, partitions: u32, now: Instant) -> FlushTargets {
        let mut deliveries = self.deliveries();
        let count = partitions.max(1) as usize;
        deliveries.partitions.resize_with(count, Partition::default);
        self.update(&mut deliveries, now);
        let (mut writable, mut heartbeat) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (partition, state) in (0..).zip(&deliveries.partitions) {
            if !state.is_unavailable {
                writable.push(partition);
            }
            if !state.is_unavailable || state.needs_probe(now) {
                heartbeat.push(partition);
            }
        }
        if writable.is_empty() {
            writable.extend(0..partitions.max(1));
        }
        FlushTargets {
            writable,
            heartbeat,
        }
    }

    /// Registers a record as sent to a partition. Returns its ticket.
    pub(crate) fn on_sent(&self, partition: u32, now: Instant) -> u64 {
        let mut deliveries = self.deliveries();
        let ticket = deliveries.next_ticket;
        deliveries.next_ticket += 1;
        if let Some(state) = deliveries.partitions.get_mut(partition as usize) {
            state.in_flight.insert(ticket, now);
            state.last_sent = Some(now);
        }
        ticket
    }

    /// Applies the log's result for a record: an acknowledgement, or the reason of a refusal.
    pub(crate) fn on_delivery(
        &self,
        partition: u32,
        ticket: u64,
        refused: Option<&LogError>,
        now: Instant,
    ) {
        let mut deliveries = self.deliveries();
        deliveries.has_acknowledged |= refused.is_none();
        let Some(state) = deliveries.partitions.get_mut(partition as usize) else {
            return;
        };
        state.in_flight.remove(&ticket);
        if state.newest_completed.is_some_and(|newest| newest > ticket) {
            return;
        }
        state.newest_completed = Some(ticket);
        state.refusal = refused.map(LogError::to_string);
        self.update(&mut deliveries, now);
    }

    /// Recomputes the state of every partition. Logs each change once.
    fn update(&self, deliveries: &mut Deliveries, now: Instant) {
        let mut unavailable = 0;
        let mut first_reason = None;
        for (partition, state) in deliveries.partitions.iter_mut().enumerate() {
            let reason = state.unavailable_reason(now);
            match (&reason, state.is_unavailable) {
                (Some(reason), false) => {
                    tracing::warn!(partition, "the partition is unavailable: {reason}");
                }
                (None, true) => tracing::info!(partition, "the partition is available again"),
                _ => {}
            }
            state.is_unavailable = reason.is_some();
            unavailable += usize::from(state.is_unavailable);
            first_reason = first_reason.or(reason);
        }
        self.unavailable.set(unavailable as i64);
        let reason = first_reason.filter(|_| unavailable == deliveries.partitions.len());
        self.none_available
            .store(reason.is_some(), Ordering::Relaxed);
        match reason {
            Some(reason) => self.component.not_ready(reason),
            None if deliveries.has_acknowledged => self.component.ready(),
            None => {}
        }
    }

    fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition {
    /// Returns whether a heartbeat must test an unavailable partition. Records in flight are not enough for the test,
    /// since they may have been lost with a connection. While records are in flight, at most one heartbeat is sent per
    /// [`ACK_TIMEOUT`], so that heartbeats do not accumulate during a long outage.
    fn needs_probe(&self, now: Instant) -> bool {
        let elapsed = |sent_at: Instant| now.saturating_duration_since(sent_at) >= ACK_TIMEOUT;
        self.in_flight.is_empty() || self.last_sent.is_none_or(elapsed)
    }

    fn unavailable_reason(&self, now: Instant) -> Option<String> {
        let next = self.newest_completed.map_or(0, |newest| newest + 1);
        let oldest = self.in_flight.range(next..).next();
        let unacknowledged = oldest.map_or(Duration::ZERO, |(_, sent_at)| {
            now.saturating_duration_since(*sent_at)
        });
        if unacknowledged < ACK_TIMEOUT {
            return self.refusal.clone();
        }
        let seconds = unacknowledged.as_secs();
        Some(format!("the log has acknowledged nothing for {seconds} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emostream_http::Readiness;

    fn health() -> (Readiness, PartitionHealth) {
        let readiness = Readiness::new();
        let unavailable = IntGauge::new("unavailable", "unavailable").expect("a name");
        let health = PartitionHealth::new(readiness.component("ingest"), unavailable);
        (readiness, health)
    }

    fn targets(writable: &[u32], heartbeat: &[u32]) -> FlushTargets {
        FlushTargets {
            writable: writable.to_vec(),
            heartbeat: heartbeat.to_vec(),
        }
    }

    #[test]
    fn a_partition_without_acknowledgements_gets_no_reactions_until_it_acknowledges_again() {
        let (readiness, health) = health();
        let start = Instant::now();
        let half_timeout = start + ACK_TIMEOUT / 2;
        let later = start + ACK_TIMEOUT;
        assert_eq!(health.flush_targets(2, start), targets(&[0, 1], &[0, 1]));
        assert!(readiness.check().is_err(), "no record is acknowledged yet");
        let (first, second) = (health.on_sent(0, start), health.on_sent(1, start));
        health.on_delivery(0, first, None, start);
        assert_eq!(readiness.check(), Ok(()));
        assert_eq!(
            health.flush_targets(2, half_timeout),
            targets(&[0, 1], &[0, 1])
        );
        let third = health.on_sent(1, half_timeout);
        assert_eq!(health.flush_targets(2, later), targets(&[0], &[0]));
        assert_eq!(readiness.check(), Ok(()), "the other one gets its share");
        assert_eq!(
            health.flush_targets(2, half_timeout + ACK_TIMEOUT),
            targets(&[0], &[0, 1]),
            "a heartbeat tests it once per timeout"
        );
        health.on_delivery(1, third, None, later);
        assert_eq!(
            health.flush_targets(2, later),
            targets(&[0, 1], &[0, 1]),
            "the result of an older record is ignored"
        );
        health.on_delivery(1, second, None, later);
        assert_eq!(health.flush_targets(2, later), targets(&[0, 1], &[0, 1]));
    }

    #[test]
    fn a_partition_that_refused_is_probed_until_it_acknowledges_a_record() {
        let (readiness, health) = health();
        let now = Instant::now();
        health.flush_targets(2, now);
        let (old, new) = (health.on_sent(1, now), health.on_sent(1, now));
        health.on_delivery(1, new, Some(&LogError::Full), now);
        assert_eq!(
            health.flush_targets(2, now),
            targets(&[0], &[0]),
            "a record is in flight"
        );
        health.on_delivery(1, old, None, now);
        assert_eq!(
            health.flush_targets(2, now),
            targets(&[0], &[0, 1]),
            "the result of an older record is ignored"
        );
        let probe = health.on_sent(1, now);
        health.on_delivery(1, probe, None, now);
        assert_eq!(health.flush_targets(2, now), targets(&[0, 1], &[0, 1]));
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn without_an_available_partition_the_ingest_is_not_ready_and_reports_the_reason() {
        let (readiness, health) = health();
        let start = Instant::now();
        health.flush_targets(2, start);
        let tickets = [health.on_sent(0, start), health.on_sent(1, start)];
        let later = start + ACK_TIMEOUT;
        assert!(!health.none_available());
        assert_eq!(health.flush_targets(2, later).writable, [0, 1]);
        assert!(health.none_available());
        let reason = readiness
            .check()
            .expect_err("no acknowledgement for too long");
        assert!(reason.ends_with("acknowledged nothing for 2 s"), "{reason}");
        health.on_delivery(0, tickets[0], None, later);
        assert!(!health.none_available());
        assert_eq!(readiness.check(), Ok(()));
        health.on_delivery(1, tickets[1], Some(&LogError::Full), later);
        let third = health.on_sent(0, later);
        health.on_delivery(0, third, Some(&LogError::Full), later);
        let reason = readiness.check().expect_err("both refuse");
        assert!(reason.contains("queue is full"), "{reason}");
    }

    #[test]
    fn partitions_are_added_and_removed() {
        let (_, health) = health();
        let now = Instant::now();
        assert_eq!(health.flush_targets(1, now), targets(&[0], &[0]));
        assert_eq!(
            health.flush_targets(3, now),
            targets(&[0, 1, 2], &[0, 1, 2])
        );
        let ticket = health.on_sent(2, now);
        assert_eq!(health.flush_targets(2, now), targets(&[0, 1], &[0, 1]));
        health.on_delivery(2, ticket, Some(&LogError::Full), now);
        assert_eq!(health.flush_targets(2, now), targets(&[0, 1], &[0, 1]));
    }
}
