//! Which partitions of the log take what is written, told by the records that leave and land.
//!
//! ```text
//!            silent for 2 s, or refused
//!   open ◀───────────────────────────────▶ away      its share goes to the open ones
//!            the next record lands
//! ```
//!
//! A partition whose leader is lost costs nobody a reaction: the others take its share. When all are
//! away the log is, and nothing is accepted until one is back.

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

/// A partition that acknowledges nothing for this long is away: well above a slow broker's commit, and
/// what is accepted meanwhile is what a crash can lose at most.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// Turns landings, and their absence, into a choice of partitions and into readiness.
#[derive(Debug)]
pub(crate) struct Health {
    component: Component,
    away: IntGauge,
    /// No partition takes anything: what every request asks.
    is_away: AtomicBool,
    flights: Mutex<Flights>,
}

#[derive(Debug, Default)]
struct Flights {
    next_ticket: u64,
    partitions: Vec<Partition>,
    has_landed: bool,
}

#[derive(Debug, Default)]
struct Partition {
    /// When each record that has not landed left, by its ticket.
    under_way: BTreeMap<u64, Instant>,
    /// The newest record that has landed: an older one says nothing about now.
    newest_landed: Option<u64>,
    last_left: Option<Instant>,
    refusal: Option<String>,
    /// Whether it was away when last looked at.
    was_away: bool,
}

/// What a flush may write to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The partitions that take reactions; all of them if none does, for what was accepted has to go
    /// somewhere.
    pub(crate) open: Vec<u32>,
    /// The partitions that get a heartbeat if they get nothing else: the open ones, and now and then one
    /// that is away, to hear when it is back.
    pub(crate) beat: Vec<u32>,
}

impl Health {
    pub(crate) fn new(component: Component, away: IntGauge) -> Self {
        Self {
            component,
            away,
            is_away: AtomicBool::new(false),
            flights: Mutex::default(),
        }
    }

    /// Whether nothing can be accepted now.
    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Where a flush of `partitions` partitions goes.
    pub(crate) fn choose(&self, partitions: u32, now: Instant) -> Choice {
        let mut flights = self.flights();
        let count = partitions.max(1) as usize;
        flights.partitions.resize_with(count, Partition::default);
        self.look(&mut flights, now);
        let (mut open, mut beat) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (partition, it) in (0..).zip(&flights.partitions) {
            if !it.was_away {
                open.push(partition);
            }
            if !it.was_away || it.wants_a_probe(now) {
                beat.push(partition);
            }
        }
        if open.is_empty() {
            open.extend(0..partitions.max(1));
        }
        Choice { open, beat }
    }

    /// A record leaves for a partition; its ticket.
    pub(crate) fn left(&self, partition: u32, now: Instant) -> u64 {
        let mut flights = self.flights();
        let ticket = flights.next_ticket;
        flights.next_ticket += 1;
        if let Some(it) = flights.partitions.get_mut(partition as usize) {
            it.under_way.insert(ticket, now);
            it.last_left = Some(now);
        }
        ticket
    }

    /// It has landed, or will not.
    pub(crate) fn landed(
        &self,
        partition: u32,
        ticket: u64,
        refused: Option<&LogError>,
        now: Instant,
    ) {
        let mut flights = self.flights();
        flights.has_landed |= refused.is_none();
        let Some(it) = flights.partitions.get_mut(partition as usize) else {
            return;
        };
        it.under_way.remove(&ticket);
        if it.newest_landed.is_some_and(|newest| newest > ticket) {
            return;
        }
        it.newest_landed = Some(ticket);
        it.refusal = refused.map(LogError::to_string);
        self.look(&mut flights, now);
    }

    /// Looks at every partition; tells what has changed, once.
    fn look(&self, flights: &mut Flights, now: Instant) {
        let mut away = 0;
        let mut reason = None;
        for (partition, it) in flights.partitions.iter_mut().enumerate() {
            let why = it.why_away(now);
            match (&why, it.was_away) {
                (Some(why), false) => {
                    tracing::warn!(partition, "takes no reactions for now: {why}");
                }
                (None, true) => tracing::info!(partition, "takes reactions again"),
                _ => {}
            }
            it.was_away = why.is_some();
            away += usize::from(it.was_away);
            reason = reason.or(why);
        }
        self.away.set(away as i64);
        let reason = reason.filter(|_| away == flights.partitions.len());
        self.is_away.store(reason.is_some(), Ordering::Relaxed);
        match reason {
            Some(reason) => self.component.not_ready(reason),
            None if flights.has_landed => self.component.ready(),
            None => {}
        }
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition {
    /// What is under way may have been lost with a connection, so it is not all that is waited for; nor
    /// may heartbeats pile up through a long outage.
    fn wants_a_probe(&self, now: Instant) -> bool {
        let rested = |left: Instant| now.saturating_duration_since(left) >= SILENCE;
        self.under_way.is_empty() || self.last_left.is_none_or(rested)
    }

    fn why_away(&self, now: Instant) -> Option<String> {
        let next = self.newest_landed.map_or(0, |newest| newest + 1);
        let oldest = self.under_way.range(next..).next();
        let silent = oldest.map_or(Duration::ZERO, |(_, left)| {
            now.saturating_duration_since(*left)
        });
        if silent < SILENCE {
            return self.refusal.clone();
        }
        let seconds = silent.as_secs();
        Some(format!("the log has acknowledged nothing for {seconds} s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emostream_http::Readiness;

    fn health() -> (Readiness, Health) {
        let readiness = Readiness::new();
        let away = IntGauge::new("away", "away").expect("a name");
        let health = Health::new(readiness.component("ingest"), away);
        (readiness, health)
    }

    fn choice(open: &[u32], beat: &[u32]) -> Choice {
        Choice {
            open: open.to_vec(),
            beat: beat.to_vec(),
        }
    }

    #[test]
    fn a_silent_partition_gets_nothing_until_it_lands_what_it_has() {
        let (readiness, health) = health();
        let start = Instant::now();
        let soon = start + SILENCE / 2;
        let later = start + SILENCE;
        assert_eq!(health.choose(2, start), choice(&[0, 1], &[0, 1]));
        assert!(readiness.check().is_err(), "nothing has landed yet");
        let (first, second) = (health.left(0, start), health.left(1, start));
        health.landed(0, first, None, start);
        assert_eq!(readiness.check(), Ok(()));
        assert_eq!(health.choose(2, soon), choice(&[0, 1], &[0, 1]));
        let third = health.left(1, soon);
        assert_eq!(health.choose(2, later), choice(&[0], &[0]));
        assert_eq!(readiness.check(), Ok(()), "the other one takes its share");
        assert_eq!(
            health.choose(2, soon + SILENCE),
            choice(&[0], &[0, 1]),
            "now and then it is asked again"
        );
        health.landed(1, third, None, later);
        assert_eq!(
            health.choose(2, later),
            choice(&[0, 1], &[0, 1]),
            "an older record says nothing about now"
        );
        health.landed(1, second, None, later);
        assert_eq!(health.choose(2, later), choice(&[0, 1], &[0, 1]));
    }

    #[test]
    fn a_partition_that_refused_is_probed_until_it_takes_something() {
        let (readiness, health) = health();
        let now = Instant::now();
        health.choose(2, now);
        let (old, new) = (health.left(1, now), health.left(1, now));
        health.landed(1, new, Some(&LogError::Full), now);
        assert_eq!(
            health.choose(2, now),
            choice(&[0], &[0]),
            "one is under way"
        );
        health.landed(1, old, None, now);
        assert_eq!(
            health.choose(2, now),
            choice(&[0], &[0, 1]),
            "an older record says nothing about now"
        );
        let probe = health.left(1, now);
        health.landed(1, probe, None, now);
        assert_eq!(health.choose(2, now), choice(&[0, 1], &[0, 1]));
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn when_every_partition_is_away_the_log_is_and_says_why() {
        let (readiness, health) = health();
        let start = Instant::now();
        health.choose(2, start);
        let tickets = [health.left(0, start), health.left(1, start)];
        let later = start + SILENCE;
        assert!(!health.is_away());
        assert_eq!(health.choose(2, later).open, [0, 1]);
        assert!(health.is_away());
        let reason = readiness.check().expect_err("silent for too long");
        assert!(reason.ends_with("acknowledged nothing for 2 s"), "{reason}");
        health.landed(0, tickets[0], None, later);
        assert!(!health.is_away());
        assert_eq!(readiness.check(), Ok(()));
        health.landed(1, tickets[1], Some(&LogError::Full), later);
        let third = health.left(0, later);
        health.landed(0, third, Some(&LogError::Full), later);
        let reason = readiness.check().expect_err("both refuse");
        assert!(reason.contains("queue is full"), "{reason}");
    }

    #[test]
    fn partitions_come_and_go() {
        let (_, health) = health();
        let now = Instant::now();
        assert_eq!(health.choose(1, now), choice(&[0], &[0]));
        assert_eq!(health.choose(3, now), choice(&[0, 1, 2], &[0, 1, 2]));
        let ticket = health.left(2, now);
        assert_eq!(health.choose(2, now), choice(&[0, 1], &[0, 1]));
        health.landed(2, ticket, Some(&LogError::Full), now);
        assert_eq!(health.choose(2, now), choice(&[0, 1], &[0, 1]));
    }
}
