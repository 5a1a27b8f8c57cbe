//! Idle partitions: decides when the frontier may pass over a partition without new records, and for how long such a
//! partition can hold the frontier back.
//!
//! ```text
//!            no record for the idle timeout            end offset, requested later, is reached
//!  active ──────────────────────────────────▶ quiet ─────────────────────────────────────────▶ passed
//!    ▲                                          │ no answer, or the end is not reached
//!    │ a record, or the end is reached          ▼
//!    └──────────────────────────────────────── held ──hold timeout, by a later request──▶ released
//! ```
//!
//! Even if no records arrive, there may be new records in the log: the process may have been frozen, or the partition's
//! broker may not respond. So before the frontier passes the end of a window, each quiet partition must be read up to
//! an end offset that was *requested after* the worker knew of that time. Then all records that were acknowledged
//! before the request are read. No clock is needed to distinguish a freeze from a partition without records.
//!
//! The rules are pure functions: times and answers are passed in.
//!
//! Invariants:
//! - Each partition has at most one request in flight. Its answer proves nothing about a time that the worker did not
//!   know when the request was sent.
//! - A hold times out only with the answer to a request that was sent after the hold timeout expired, so that the time
//!   of a freeze does not count. It never times out before the partition is read up to N, the committed offset of the
//!   previous run.

use std::time::{Duration, Instant};

use emostream_log::EndOffsets;

/// Pause between an answer that did not show that the partition is read to its end, and the next request.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The reason why a partition holds the frontier back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// The partition's leader does not respond, or its records do not arrive.
    Unreachable,
    /// All records up to the last stable offset are read, and another producer's transaction is open after that offset.
    OpenTransaction,
    /// The next record of the partition is ahead of this host's clock.
    Ahead,
}

impl HoldReason {
    /// All reasons why a partition can hold the frontier back.
    pub const ALL: [HoldReason; 3] = [
        HoldReason::Unreachable,
        HoldReason::OpenTransaction,
        HoldReason::Ahead,
    ];

    /// Returns the name of the reason in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldReason::Unreachable => "unreachable",
            HoldReason::OpenTransaction => "open transaction",
            HoldReason::Ahead => "ahead",
        }
    }
}

/// The time up to which a partition allows the frontier to advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// The partition is not quiet, so the frontier may advance up to its watermark.
    Watermark,
    /// The partition is quiet, so the frontier may advance up to the time, Unix milliseconds, for which it is proven
    /// that the partition was read to its end.
    Until(u64),
    /// The hold timeout of the partition expired, so it does not limit the frontier.
    Unlimited,
}

/// The timeouts of [`Idleness`].
#[derive(Debug, Clone, Copy)]
pub struct IdleTimeouts {
    /// The time without a record after which a partition is quiet.
    pub idle: Duration,
    /// The maximum time for which a partition is held.
    pub hold: Duration,
}

/// The idleness of one partition.
#[derive(Debug)]
pub struct Idleness {
    timeouts: IdleTimeouts,
    /// The committed offset at the start of the run. Until the partition is read up to the committed offset, answers
    /// prove nothing and no hold times out.
    read_to: u64,
    /// The time of the last record; `None` for a partition that was idle before the start.
    quiet_since: Option<Instant>,
    request: Option<Request>,
    retry_at: Option<Instant>,
    proven_until_ms: u64,
    hold: Option<Hold>,
    /// The hold that ended by its timeout; `None` before that, and once the partition has caught up.
    released: Option<Released>,
}

#[derive(Debug)]
struct Released {
    reason: HoldReason,
    /// The end offset of the first answer after the hold timeout expired. The partition has caught up once it is read
    /// up to this offset. The current end offset cannot be used instead, since the reader might never reach it.
    until: Option<u64>,
}

#[derive(Debug)]
struct Request {
    /// The time to which the frontier may advance if the answer shows that the partition is read to its end.
    until_ms: u64,
    sent: Instant,
}

#[derive(Debug)]
struct Hold {
    finding: Finding,
    since: Instant,
    position: u64,
    /// Whether a second response showed the same state of the partition. One response is not enough: just after a
    /// freeze, the first response always shows that the reader is behind.
    confirmed: bool,
}

/// The state of a partition that is not read to its end, as an answer shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    NoAnswer,
    /// The leader answers, and has records below the last stable offset that did not arrive yet. They arrive soon after
    /// a freeze, or when a broker is available again. So this finding differs from `NoAnswer`: when it follows
    /// `NoAnswer`, the hold timeout starts again.
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
    /// Creates the state of a partition whose reading begins at the time `now`. `was_idle` is whether the previous run
    /// stored that the partition was idle. If so, the idle timeout does not start again, unless a record was appended
    /// since then.
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

    /// Handles new records, after which the partition is read up to `position`.
    pub fn on_records(&mut self, now: Instant, position: u64) {
        self.hold = None;
        // Records that are read again after a restart are not new, so they do not end the idleness that the previous
        // run stored.
        if self.quiet_since.is_some() || position > self.read_to {
            self.quiet_since = Some(now);
        }
    }

    /// Handles a pause of reading, in which the absence of records proves nothing.
    pub fn on_paused(&mut self, now: Instant) {
        self.hold = None;
        self.quiet_since = Some(now);
    }

    /// Whether the partition has had no record within the idle timeout.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.quiet_since
            .is_none_or(|since| now.saturating_duration_since(since) >= self.timeouts.idle)
    }

    /// Whether the caller must request the end offset now, so that the frontier may advance to `until_ms`. If so, the
    /// request counts as sent.
    ///
    /// `wanted_ms` is the time to which the frontier could advance if no partition of another worker were held. A
    /// request is needed for that time as well, although its response proves nothing about that time: the hold of this
    /// partition must begin and expire at the same time as the holds of the other partitions, not after them.
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

    /// Handles the answer to the request: the end offsets, or `None` if the leader did not answer. `position` is the
    /// offset up to which the partition is read now.
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
            // If the finding or the position has changed, the hold timeout starts again.
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

    /// Returns how far the partition allows the frontier to advance.
    pub fn passage(&self, now: Instant) -> Passage {
        match &self.released {
            _ if !self.is_quiet(now) => Passage::Watermark,
            Some(_) => Passage::Unlimited,
            None => Passage::Until(self.proven_until_ms),
        }
    }

    /// Whether the partition holds the frontier back, even if the reason is not confirmed yet.
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// Returns the reason why the partition holds the frontier back although it is quiet, once a second answer has
    /// confirmed the reason.
    pub fn held(&self) -> Option<HoldReason> {
        let hold = self.hold.as_ref().filter(|hold| hold.confirmed);
        hold.map(|hold| hold.finding.reason())
    }

    /// Returns the reason of a hold whose timeout expired, until the partition has caught up.
    pub fn released(&self) -> Option<HoldReason> {
        self.released.as_ref().map(|released| released.reason)
    }

    /// Whether the partition is quiet and was read to its end, so that a restart does not have to wait for the idle
    /// timeout again.
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

    /// A partition that is read up to offset 100, the current time, and the time at which the test began.
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

        /// Lets time pass until `seconds`. Every second the partition may request its end offset, and `answer` answers
        /// the request.
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
    fn the_frontier_passes_a_quiet_partition_only_up_to_the_time_of_the_request() {
        let mut partition = Partition::new(0, false);
        assert!(!partition.at(9).requests(2000));
        assert_eq!(partition.passage(), Passage::Watermark);
        assert!(partition.at(10).requests(2000));
        assert_eq!(partition.passage(), Passage::Until(0));
        // The worker learns of a later time before the answer arrives, so the answer proves only the earlier time.
        assert!(!partition.requests(4000));
        partition.answer(100, 100);
        assert_eq!(partition.passage(), Passage::Until(2000));
        assert!(partition.requests(4000));
        partition.answer(100, 100);
        assert_eq!(partition.passage(), Passage::Until(4000));
        assert!(partition.idleness.is_idle(partition.now));
    }

    #[test]
    fn after_a_freeze_the_frontier_waits_for_records_that_were_appended_in_the_meantime() {
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
        // The partition has caught up, so the idle timeout starts again.
        assert!(partition.at(80).requests(u64::MAX));
        partition.answer(100, 100);
        assert_eq!(partition.idleness.released(), None);
        assert_eq!(partition.passage(), Passage::Watermark);
        assert!(!partition.at(89).requests(u64::MAX));
        assert!(partition.at(90).requests(u64::MAX));
    }

    #[test]
    fn a_released_partition_catches_up_although_its_end_advances() {
        let mut partition = Partition::new(0, false);
        partition.until(71, Partition::no_answer);
        assert!(partition.at(72).requests(u64::MAX));
        // The leader answers again. The partition's producer always has an open transaction, so the reader never
        // reaches the current end offset.
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
    fn a_hold_is_confirmed_and_times_out_although_the_frontier_cannot_advance() {
        let mut partition = Partition::new(0, false);
        assert!(partition.at(10).requests(2000));
        partition.answer(100, 100);
        // Partitions of other workers are held as well. If they were not, the frontier could advance to 4 s.
        let wants =
            |partition: &mut Partition| partition.idleness.wants_request(partition.now, 2000, 4000);
        assert!(wants(partition.at(11)));
        partition.no_answer();
        assert!(wants(partition.at(12)));
        partition.no_answer();
        assert_eq!(partition.idleness.held(), Some(HoldReason::Unreachable));
        // The end offset of a held partition is requested although the frontier could not advance.
        assert!(partition.at(71).requests(2000));
        partition.no_answer();
        assert_eq!(partition.passage(), Passage::Unlimited);
    }

    #[test]
    fn an_open_transaction_holds_and_another_one_holds_again() {
        let mut partition = Partition::new(0, false);
        partition.until(60, |it| it.answer(100, 130));
        assert_eq!(partition.idleness.held(), Some(HoldReason::OpenTransaction));
        // The transaction was aborted, and another one was opened after it.
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
        // The process was frozen. The request was sent before the hold timeout expired, so the answer does not release
        // the partition.
        partition.at(200).no_answer();
        assert_eq!(partition.passage(), Passage::Until(0));
        // The broker is available again, and has records that were not read yet.
        assert!(partition.at(201).requests(u64::MAX));
        partition.answer(180, 180);
        assert_eq!(partition.passage(), Passage::Until(0));
    }

    #[test]
    fn nothing_is_proven_and_no_hold_ends_before_the_previous_n_is_reached() {
        let mut partition = Partition::new(120, true);
        partition.until(300, |it| it.answer(100, 100));
        assert_eq!(partition.passage(), Passage::Until(0));
        assert_eq!(partition.idleness.held(), Some(HoldReason::Unreachable));
    }

    #[test]
    fn a_partition_that_was_idle_before_a_restart_is_idle_at_once_unless_records_were_appended() {
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
