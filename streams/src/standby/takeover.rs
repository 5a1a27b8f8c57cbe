//! The state machine that decides when a standby takes over, without IO.
//!
//! ```text
//!   end offsets ──▶ as before? ──no──▶ the wait starts again
//!                        │ yes
//!                        └──▶ requested after the end of the wait? ──▶ take over
//!   no response ────────────────────────▶ the wait starts again
//! ```

use std::time::{Duration, Instant};

use emostream_log::EndOffsets;

/// Time for which a standby waits if the last record has no heartbeat field. Such a record is from an older version. If
/// it does not have to retry a commit, that version commits at least once a minute.
const LEGACY_TIMEOUT: Duration = Duration::from_secs(180);

/// The times that a standby waits before it takes over.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The time without a commit after which the standby takes over.
    pub takeover: Duration,
    /// The maximum time for which a transaction may be open: its owner may need this long to commit it.
    pub commit_timeout: Duration,
}

/// The outcome of a request for the end offsets of the progress topic.
#[derive(Debug, Clone, Copy)]
pub enum Observation {
    /// The log did not respond, so there may have been commits.
    NoResponse,
    /// The log responded. The end offsets are those of some time after the request was sent.
    Response {
        /// The time at which the request was sent.
        requested: Instant,
        /// The end offsets.
        ends: EndOffsets,
        /// Whether the run that wrote the newest record has heartbeats, so that it commits at least once per interval.
        heartbeats: bool,
    },
}

/// The decision after an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The standby waits, since the active run may be alive.
    Wait,
    /// The standby takes over, since there was no commit for too long.
    TakeOver,
}

/// Decides from observations of the progress topic whether the active run has ended.
#[derive(Debug)]
pub struct TakeoverDetector {
    timeouts: Timeouts,
    last: Option<LastResponse>,
}

#[derive(Debug, Clone, Copy)]
struct LastResponse {
    ends: EndOffsets,
    /// The time at which the first response with these end offsets arrived. All responses after it had the same end
    /// offsets.
    since: Instant,
    /// The time at which the open transaction was first observed; `None` if no transaction is open.
    open_since: Option<Instant>,
}

impl TakeoverDetector {
    /// Creates a detector that has made no observation yet.
    pub fn new(timeouts: Timeouts) -> TakeoverDetector {
        TakeoverDetector {
            timeouts,
            last: None,
        }
    }

    /// Applies an observation, which was complete at `now`, and returns the decision.
    pub fn on(&mut self, observation: Observation, now: Instant) -> Decision {
        let Observation::Response {
            requested,
            ends,
            heartbeats,
        } = observation
        else {
            self.last = None;
            return Decision::Wait;
        };
        let last = self.record(ends, now);
        let shortest = match heartbeats {
            true => self.timeouts.takeover,
            false => LEGACY_TIMEOUT.max(self.timeouts.takeover),
        };
        // A response may describe the log as it was just after the request was sent, so only the time up to the request
        // counts.
        let passed = |since: Instant| requested.saturating_duration_since(since);
        let is_silent = passed(last.since) >= shortest;
        let decided = last
            .open_since
            .is_none_or(|since| passed(since) >= self.timeouts.commit_timeout.max(shortest));
        match is_silent && decided {
            true => Decision::TakeOver,
            false => Decision::Wait,
        }
    }

    fn record(&mut self, ends: EndOffsets, now: Instant) -> LastResponse {
        let before = self.last;
        let is_open = ends.stable < ends.end;
        // An open transaction begins at the stable offset, so the same stable offset means that it is the same
        // transaction.
        let known = before.filter(|before| before.ends.stable == ends.stable);
        let open_since = is_open.then(|| known.and_then(|it| it.open_since).unwrap_or(now));
        let since = match before {
            Some(before) if before.ends == ends => before.since,
            // The wait also starts again if only the stable offset has changed. The log returns the stable offset as of
            // a later moment than the end offset, so a commit between these moments changes only the stable offset.
            _ => now,
        };
        let last = LastResponse {
            ends,
            since,
            open_since,
        };
        self.last = Some(last);
        last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        takeover: Duration::from_secs(10),
        commit_timeout: Duration::from_secs(60),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn closed(end: u64) -> EndOffsets {
        EndOffsets { stable: end, end }
    }

    /// A standby in a test, whose requests get a response at once.
    struct TestStandby {
        detector: TakeoverDetector,
        now: Instant,
    }

    impl TestStandby {
        fn new() -> TestStandby {
            TestStandby {
                detector: TakeoverDetector::new(TIMEOUTS),
                now: Instant::now(),
            }
        }

        fn poll(&mut self, ends: EndOffsets, heartbeats: bool) -> Decision {
            let response = Observation::Response {
                requested: self.now,
                ends,
                heartbeats,
            };
            self.detector.on(response, self.now)
        }

        /// Returns the number of seconds after which the standby takes over, if all responses are the same.
        fn takes_over_after(&mut self, ends: EndOffsets, heartbeats: bool) -> Option<u64> {
            (0..=600).find(|_| {
                let decision = self.poll(ends, heartbeats);
                self.now += ms(1000);
                decision == Decision::TakeOver
            })
        }
    }

    #[test]
    fn it_takes_over_when_there_was_no_commit_for_the_takeover_time() {
        assert_eq!(
            TestStandby::new().takes_over_after(closed(5), true),
            Some(10)
        );
        assert_eq!(
            TestStandby::new().takes_over_after(closed(0), true),
            Some(10)
        );
    }

    #[test]
    fn a_record_without_heartbeat_is_waited_for_three_minutes() {
        assert_eq!(
            TestStandby::new().takes_over_after(closed(5), false),
            Some(180)
        );
    }

    #[test]
    fn a_takeover_time_of_more_than_three_minutes_holds_without_heartbeat_too() {
        let takeover = Duration::from_secs(300);
        let mut standby = TestStandby::new();
        standby.detector = TakeoverDetector::new(Timeouts {
            takeover,
            ..TIMEOUTS
        });
        assert_eq!(standby.takes_over_after(closed(5), false), Some(300));
    }

    #[test]
    fn an_open_transaction_is_waited_for_as_long_as_it_may_take() {
        let open = EndOffsets { stable: 5, end: 6 };
        assert_eq!(TestStandby::new().takes_over_after(open, true), Some(60));
        // The wait begins at the first observation of the transaction, although further records are written into the
        // transaction later.
        let mut standby = TestStandby::new();
        for end in 6..61 {
            assert_eq!(
                standby.poll(EndOffsets { stable: 5, end }, true),
                Decision::Wait
            );
            standby.now += ms(1000);
        }
        let open = EndOffsets { stable: 5, end: 60 };
        assert_eq!(standby.takes_over_after(open, true), Some(9));
    }

    #[test]
    fn a_request_without_a_response_restarts_the_wait() {
        let mut standby = TestStandby::new();
        for _ in 0..100 {
            for _ in 0..10 {
                assert_eq!(standby.poll(closed(5), true), Decision::Wait);
                standby.now += ms(999);
            }
            standby.detector.on(Observation::NoResponse, standby.now);
        }
        assert_eq!(standby.takes_over_after(closed(5), true), Some(10));
    }

    #[test]
    fn a_response_to_a_request_from_before_the_end_of_the_wait_does_not_count() {
        let mut standby = TestStandby::new();
        standby.poll(closed(5), true);
        // The standby was frozen between the request and the response.
        let response = Observation::Response {
            requested: standby.now + ms(9_999),
            ends: closed(5),
            heartbeats: true,
        };
        let later = standby.now + ms(3_600_000);
        assert_eq!(standby.detector.on(response, later), Decision::Wait);
    }

    /// The response may describe the log as it was just before the response arrived, and a commit may have been made
    /// just before that. So the wait must not begin earlier.
    #[test]
    fn the_wait_begins_when_the_first_response_arrives_not_when_it_is_requested() {
        let mut standby = TestStandby::new();
        let requested = standby.now;
        let response = Observation::Response {
            requested,
            ends: closed(5),
            heartbeats: true,
        };
        standby.detector.on(response, requested + ms(2_000));
        standby.now = requested + ms(11_999);
        assert_eq!(standby.poll(closed(5), true), Decision::Wait);
        standby.now = requested + ms(12_000);
        assert_eq!(standby.poll(closed(5), true), Decision::TakeOver);
    }

    /// A transaction of an active run, with a pause before it.
    #[derive(Debug, Clone)]
    struct Transaction {
        pause_ms: u64,
        open_ms: u64,
    }

    fn transactions() -> impl Strategy<Value = Vec<Transaction>> {
        let open_ms = prop_oneof![3 => 0_u64..200, 1 => 0_u64..59_000];
        let each = (0_u64..9_900, open_ms);
        let each = each.prop_map(|(pause_ms, open_ms)| Transaction { pause_ms, open_ms });
        proptest::collection::vec(each, 1..30)
    }

    /// Returns the stable offset and the end offset at `at_ms`. A transaction writes a record when it opens, and
    /// another record and a marker when it is committed.
    fn ends_at(transactions: &[Transaction], at_ms: u64) -> (u64, u64) {
        let (mut time_ms, mut end) = (0, 7);
        for transaction in transactions {
            time_ms += transaction.pause_ms;
            if at_ms < time_ms {
                return (end, end);
            }
            let stable = end;
            end += 1;
            time_ms += transaction.open_ms;
            if at_ms < time_ms {
                return (stable, end);
            }
            end += 2;
        }
        (end, end)
    }

    proptest! {
        #[test]
        fn a_run_that_commits_in_time_is_never_fenced(
            transactions in transactions(),
            // The delays of each poll: until the request is sent, until the end offset is read, until the stable offset
            // is read, and until the response arrives.
            polls in proptest::collection::vec((0_u64..3_000, 0_u64..1_000, 0_u64..1_000, 0_u64..1_000), 1..400),
            lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let lasts_ms: u64 = transactions.iter().map(|it| it.pause_ms + it.open_ms).sum();
            let begun = Instant::now();
            let mut detector = TakeoverDetector::new(TIMEOUTS);
            let lost: Vec<usize> = lost.iter().map(|at| at.index(polls.len())).collect();
            let mut now_ms = 0;
            for (number, (pause, to_end, to_stable, to_response)) in polls.into_iter().enumerate() {
                let requested_ms = now_ms + pause;
                let end_ms = requested_ms + to_end;
                let stable_ms = end_ms + to_stable;
                now_ms = stable_ms + to_response;
                if now_ms > lasts_ms {
                    break;
                }
                let end = ends_at(&transactions, end_ms).1;
                let stable = ends_at(&transactions, stable_ms).0.min(end);
                let observation = match lost.contains(&number) {
                    true => Observation::NoResponse,
                    false => Observation::Response {
                        requested: begun + ms(requested_ms), ends: EndOffsets { stable, end }, heartbeats: true,
                    },
                };
                let decision = detector.on(observation, begun + ms(now_ms));
                prop_assert_eq!(decision, Decision::Wait, "at {} ms", now_ms);
            }
        }

        #[test]
        fn a_run_that_has_ended_is_replaced_in_time(
            before in proptest::collection::vec((0_u64..20, 0_u64..3, any::<bool>()), 0..50),
            open in any::<bool>(), every_ms in 1_u64..2_000,
        ) {
            let mut standby = TestStandby::new();
            for (stable, open, answered) in before {
                let _ = match answered {
                    true => standby.poll(EndOffsets { stable, end: stable + open }, true),
                    false => standby.detector.on(Observation::NoResponse, standby.now),
                };
                standby.now += ms(every_ms);
            }
            let (gone, ends) = (standby.now, EndOffsets { stable: 100, end: 100 + u64::from(open) });
            while standby.poll(ends, true) == Decision::Wait {
                standby.now += ms(every_ms);
            }
            let wait = if open { TIMEOUTS.commit_timeout } else { TIMEOUTS.takeover };
            prop_assert!(standby.now - gone <= wait + ms(every_ms));
        }
    }
}
