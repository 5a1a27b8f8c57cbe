//! When time may pass over a partition that brings no records, and for how long it may not.
//!
//! ```text
//!            no record for the idle timeout            end offset, requested later, is reached
//!  active ──────────────────────────────────▶ quiet ─────────────────────────────────────────▶ passed
//!    ▲                                          │ no answer, or the end is not reached
//!    │ a record, or the end is reached          ▼
//!    └──────────────────────────────────────── held ──hold timeout, by a later request──▶ released
//! ```
//!
//! Silence proves nothing: the process may have been frozen, or the partition's broker may be away. Time
//! passes a window's end over a quiet partition only when an end offset that was *requested after* the worker
//! knew of that time has been reached. So everything that was acknowledged before is read, and no clock is
//! needed to tell a freeze from a silence.
//!
//! Pure rules: time and answers come in as values.
//!
//! Invariants:
//! - One request at a time. An answer proves nothing about a time that was learned after its request.
//! - A hold is given up only by a request that was sent after the hold timeout ran out, so a freeze does not
//!   use it up; and never before the partition is read up to where the run before got to.

use std::time::{Duration, Instant};

use emostream_log::EndOffsets;

/// How long after an answer that proved nothing the next request is sent.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why time may not pass over a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// Its leader does not answer, or what it holds does not arrive.
    Unreachable,
    /// All that is decided is read, and behind it lies another producer's open transaction.
    OpenTransaction,
    /// Its next record is ahead of this host's clock.
    Ahead,
}

impl HoldReason {
    /// Every one there is.
    pub const ALL: [HoldReason; 3] = [
        HoldReason::Unreachable,
        HoldReason::OpenTransaction,
        HoldReason::Ahead,
    ];

    /// As it stands in metrics and sentences.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldReason::Unreachable => "unreachable",
            HoldReason::OpenTransaction => "open transaction",
            HoldReason::Ahead => "ahead",
        }
    }
}

/// How far time may pass over a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// As far as its watermark: it brings records.
    Watermark,
    /// As far as was proven, Unix milliseconds. It is quiet.
    Until(u64),
    /// As far as others let it: its hold timed out.
    Unlimited,
}

/// The timeouts of [`Idleness`].
#[derive(Debug, Clone, Copy)]
pub struct IdleTimeouts {
    /// When a partition without records is quiet.
    pub idle: Duration,
    /// How long a partition is held at most.
    pub hold: Duration,
}

/// The idleness of one partition.
#[derive(Debug)]
pub struct Idleness {
    timeouts: IdleTimeouts,
    /// N of the start: until it is read, nothing is proven and no hold ends.
    read_to: u64,
    /// Since when there was no record; `None` for a partition that was idle before the start.
    quiet_since: Option<Instant>,
    request: Option<Request>,
    retry_at: Option<Instant>,
    proven_until_ms: u64,
    hold: Option<Hold>,
    /// Its hold timed out, and it has not caught up since.
    released: Option<Released>,
}

#[derive(Debug)]
struct Released {
    reason: HoldReason,
    /// Its end when it first answered again: read up to there, it has caught up. Its end now may move for ever.
    until: Option<u64>,
}

#[derive(Debug)]
struct Request {
    /// The time that it may prove.
    until_ms: u64,
    sent: Instant,
}

#[derive(Debug)]
struct Hold {
    finding: Finding,
    since: Instant,
    position: u64,
    /// Whether a second answer said the same. Just after a freeze the first one finds the reader behind.
    confirmed: bool,
}

/// What an answer shows of a partition that is not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    NoAnswer,
    /// Its leader answers and holds decided records that did not arrive yet. After a freeze, or when a broker is
    /// back, that is only a moment's work, so it is not the same as no answer: the hold timeout begins again.
    Unread,
    OpenTransaction,
}

impl Finding {
    fn reason(self) -> HoldReason {
        match self {
            Finding::NoAnswer | Finding::Unread => HoldReason::Unreachable,
            Finding::OpenTransaction => HoldReason::OpenTransaction,
        }
    }
}

impl Idleness {
    /// The idleness of a partition that is read from now on. `was_idle` if the run before it stored that it
    /// was idle: unless something was appended since, the idle timeout does not begin again.
    pub fn new(timeouts: IdleTimeouts, now: Instant, read_to: u64, was_idle: bool) -> Idleness {
        Idleness {
            timeouts,
            read_to,
            quiet_since: (!was_idle).then_some(now),
            request: None,
            retry_at: None,
            proven_until_ms: 0,
            hold: None,
            released: None,
        }
    }

    /// Records came, and the partition is read up to `position`.
    pub fn on_records(&mut self, now: Instant, position: u64) {
        self.hold = None;
        // What is read again says nothing about now.
        if self.quiet_since.is_some() || position > self.read_to {
            self.quiet_since = Some(now);
        }
    }

    /// It is not read for now, so that its silence means nothing.
    pub fn on_paused(&mut self, now: Instant) {
        self.hold = None;
        self.quiet_since = Some(now);
    }

    /// Whether it has brought no record for the idle timeout.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_since
            .is_none_or(|since| now.saturating_duration_since(since) >= self.timeouts.idle)
    }

    /// Whether to request its end offset now, so that time may pass to `until_ms`. The request counts as
    /// sent then.
    ///
    /// `wanted_ms` is how far time could pass if no partition of another worker were held: a request proves
    /// nothing about that, but a hold of this partition begins and times out beside the others', not after them.
    pub fn wants_request(&mut self, now: Instant, until_ms: u64, wanted_ms: u64) -> bool {
        let needed = match self.released {
            Some(_) => true,
            None => {
                let passes = until_ms.max(wanted_ms) > self.proven_until_ms;
                self.is_quiet(now) && (passes || self.hold.is_some())
            }
        };
        let wants = needed
            && self.request.is_none()
            && self.retry_at.is_none_or(|retry_at| retry_at <= now);
        if wants {
            let sent = now;
            self.request = Some(Request { until_ms, sent });
        }
        wants
    }

    /// The answer to the request: the end offsets, `None` if nothing answered. `position` is up to where the
    /// partition is read now.
    pub fn on_answer(&mut self, now: Instant, position: u64, ends: Option<EndOffsets>) {
        let Some(request) = self.request.take() else {
            return;
        };
        self.retry_at = Some(now + RETRY_AFTER);
        if let (Some(released), Some(ends)) = (&mut self.released, ends) {
            let until = *released.until.get_or_insert(ends.end);
            if position >= until.max(self.read_to) {
                self.on_caught_up(now, &request);
            }
            return;
        }
        let finding = match ends {
            Some(ends) if position >= ends.end.max(self.read_to) => {
                return self.on_caught_up(now, &request);
            }
            Some(ends) if position >= ends.stable && ends.stable < ends.end => {
                Finding::OpenTransaction
            }
            Some(_) => Finding::Unread,
            None => Finding::NoAnswer,
        };
        if self.released.is_some() || !self.is_quiet(now) {
            return;
        }
        match &mut self.hold {
            Some(hold) if (hold.finding, hold.position) == (finding, position) => {
                hold.confirmed = true;
                let times_out = hold.since + self.timeouts.hold;
                if request.sent >= times_out && position >= self.read_to {
                    self.hold = None;
                    self.released = Some(Released {
                        reason: finding.reason(),
                        until: None,
                    });
                }
            }
            // Another finding, or it moved: the timeout begins again.
            hold => {
                let since = now;
                *hold = Some(Hold {
                    finding,
                    since,
                    position,
                    confirmed: false,
                });
            }
        }
    }

    fn on_caught_up(&mut self, now: Instant, request: &Request) {
        if self.hold.take().is_some() | self.released.take().is_some() {
            self.quiet_since = Some(now);
        } else if self.is_quiet(now) && request.until_ms > self.proven_until_ms {
            self.retry_at = None;
            self.proven_until_ms = request.until_ms;
        }
    }

    /// How far time may pass over it.
    pub fn passage(&self, now: Instant) -> Passage {
        match &self.released {
            _ if !self.is_quiet(now) => Passage::Watermark,
            Some(_) => Passage::Unlimited,
            None => Passage::Until(self.proven_until_ms),
        }
    }

    /// Whether time may not pass over it, confirmed or not.
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// Why time may not pass over it although it is quiet, once that is confirmed.
    pub fn held(&self) -> Option<HoldReason> {
        let hold = self.hold.as_ref().filter(|hold| hold.confirmed);
        hold.map(|hold| hold.finding.reason())
    }

    /// Why time passed over it although it was not read to its end, until it is.
    pub fn released(&self) -> Option<HoldReason> {
        self.released.as_ref().map(|released| released.reason)
    }

    /// Whether it is quiet and was read to its end: what a restart need not wait for again.
    pub fn is_idle(&self, now: Instant) -> bool {
        let proven = matches!(self.passage(now), Passage::Until(until_ms) if until_ms > 0);
        proven && self.hold.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: IdleTimeouts = IdleTimeouts {
        idle: Duration::from_secs(10),
        hold: Duration::from_secs(60),
    };

    /// A partition that is read up to 100, its clock, and when it began.
    struct Partition {
        idleness: Idleness,
        begun: Instant,
        now: Instant,
        position: u64,
    }

    impl Partition {
        fn new(read_to: u64, was_idle: bool) -> Partition {
            let begun = Instant::now();
            Partition {
                idleness: Idleness::new(TIMEOUTS, begun, read_to, was_idle),
                begun,
                now: begun,
                position: 100,
            }
        }

        fn at(&mut self, seconds: u64) -> &mut Partition {
            self.now = self.begun + Duration::from_secs(seconds);
            self
        }

        fn requests(&mut self, until_ms: u64) -> bool {
            self.idleness.wants_request(self.now, until_ms, until_ms)
        }

        fn answer(&mut self, stable: u64, end: u64) {
            let ends = Some(EndOffsets { stable, end });
            self.idleness.on_answer(self.now, self.position, ends);
        }

        fn no_answer(&mut self) {
            self.idleness.on_answer(self.now, self.position, None);
        }

        fn passage(&self) -> Passage {
            self.idleness.passage(self.now)
        }

        /// Requests and answers every second until `seconds`.
        fn until(&mut self, seconds: u64, mut answer: impl FnMut(&mut Partition)) {
            while self.now < self.begun + Duration::from_secs(seconds) {
                self.now += Duration::from_secs(1);
                if self.requests(u64::MAX) {
                    answer(self);
                }
            }
        }
    }

    #[test]
    fn time_passes_a_quiet_partition_only_as_far_as_was_known_when_its_end_was_requested() {
        let mut partition = Partition::new(0, false);
        assert!(!partition.at(9).requests(2000));
        assert_eq!(partition.passage(), Passage::Watermark);
        assert!(partition.at(10).requests(2000));
        assert_eq!(partition.passage(), Passage::Until(0));
        // A later time is learned before the answer comes.
        assert!(!partition.requests(4000));
        partition.answer(100, 100);
        assert_eq!(partition.passage(), Passage::Until(2000));
        assert!(partition.requests(4000));
        partition.answer(100, 100);
        assert_eq!(partition.passage(), Passage::Until(4000));
        assert!(partition.idleness.is_idle(partition.now));
    }

    #[test]
    fn after_a_freeze_time_waits_for_what_was_appended_meanwhile() {
        let mut partition = Partition::new(0, false);
        assert!(partition.at(12).requests(2000));
        partition.answer(150, 150);
        assert_eq!(partition.passage(), Passage::Until(0));
        assert_eq!(partition.idleness.held(), None, "it is read in a moment");
        let now = partition.now;
        partition.idleness.on_records(now, 150);
        assert_eq!(partition.passage(), Passage::Watermark);
    }

    #[test]
    fn an_unreachable_partition_is_held_and_released_after_the_hold_timeout() {
        let mut partition = Partition::new(0, false);
        partition.until(69, Partition::no_answer);
        assert_eq!(partition.idleness.held(), Some(HoldReason::Unreachable));
        assert_eq!(partition.passage(), Passage::Until(0));
        partition.until(71, Partition::no_answer);
        assert_eq!(partition.passage(), Passage::Unlimited);
        assert_eq!(partition.idleness.released(), Some(HoldReason::Unreachable));
        assert!(!partition.idleness.is_idle(partition.now));
        // Caught up: the idle timeout begins again.
        assert!(partition.at(80).requests(u64::MAX));
        partition.answer(100, 100);
        assert_eq!(partition.idleness.released(), None);
        assert_eq!(partition.passage(), Passage::Watermark);
        assert!(!partition.at(89).requests(u64::MAX));
        assert!(partition.at(90).requests(u64::MAX));
    }

    #[test]
    fn a_released_partition_has_caught_up_though_its_end_moves_on() {
        let mut partition = Partition::new(0, false);
        partition.until(71, Partition::no_answer);
        assert!(partition.at(72).requests(u64::MAX));
        // Its leader answers again; its producer always has a transaction open.
        partition.answer(400, 410);
        assert!(partition.idleness.released().is_some());
        partition.position = 420;
        let now = partition.now;
        partition.idleness.on_records(now, 420);
        assert!(partition.at(73).requests(u64::MAX));
        partition.answer(420, 430);
        assert_eq!(partition.idleness.released(), None);
    }

    #[test]
    fn a_hold_is_confirmed_and_times_out_though_no_time_is_to_pass() {
        let mut partition = Partition::new(0, false);
        assert!(partition.at(10).requests(2000));
        partition.answer(100, 100);
        // Others are held as well: time cannot pass further, but could.
        let wants =
            |partition: &mut Partition| partition.idleness.wants_request(partition.now, 2000, 4000);
        assert!(wants(partition.at(11)));
        partition.no_answer();
        assert!(wants(partition.at(12)));
        partition.no_answer();
        assert_eq!(partition.idleness.held(), Some(HoldReason::Unreachable));
        // Held, it is asked for although nothing could pass.
        assert!(partition.at(71).requests(2000));
        partition.no_answer();
        assert_eq!(partition.passage(), Passage::Unlimited);
    }

    #[test]
    fn an_open_transaction_holds_and_another_one_holds_anew() {
        let mut partition = Partition::new(0, false);
        partition.until(60, |it| it.answer(100, 130));
        assert_eq!(partition.idleness.held(), Some(HoldReason::OpenTransaction));
        // It was aborted, and another one was opened behind it.
        partition.position = 131;
        partition.until(115, |it| it.answer(131, 140));
        assert_eq!(partition.passage(), Passage::Until(0));
        partition.until(125, |it| it.answer(131, 140));
        assert_eq!(partition.passage(), Passage::Unlimited);
    }

    #[test]
    fn a_freeze_does_not_use_the_hold_timeout_up() {
        let mut partition = Partition::new(0, false);
        partition.until(20, Partition::no_answer);
        assert!(partition.at(21).requests(u64::MAX));
        // Frozen; the request was sent before the timeout ran out.
        partition.at(200).no_answer();
        assert_eq!(partition.passage(), Passage::Until(0));
        // The broker is back, and holds what was not read yet.
        assert!(partition.at(201).requests(u64::MAX));
        partition.answer(180, 180);
        assert_eq!(partition.passage(), Passage::Until(0));
    }

    #[test]
    fn nothing_is_proven_and_no_hold_ends_before_the_run_before_is_reached() {
        let mut partition = Partition::new(120, true);
        partition.until(300, |it| it.answer(100, 100));
        assert_eq!(partition.passage(), Passage::Until(0));
        assert_eq!(partition.idleness.held(), Some(HoldReason::Unreachable));
    }

    #[test]
    fn a_partition_that_was_idle_before_a_restart_is_idle_at_once_unless_something_was_appended() {
        let mut partition = Partition::new(100, true);
        assert!(partition.requests(2000));
        partition.answer(100, 100);
        assert_eq!(partition.passage(), Passage::Until(2000));

        let mut partition = Partition::new(100, true);
        assert!(partition.requests(2000));
        partition.answer(101, 101);
        let now = partition.now;
        partition.idleness.on_records(now, 101);
        assert_eq!(partition.passage(), Passage::Watermark);
    }
}
