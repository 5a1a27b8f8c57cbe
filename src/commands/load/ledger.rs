//! Counts the sent reactions by outcome, room and emoji.
//!
//! Invariant: if a request may have reached the server but got no response, its reactions count as unknown, never as
//! accepted or lost.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use emostream_model::{Emoji, Room};
use hdrhistogram::Histogram;
use hyper::StatusCode;
use serde::Deserialize;

use super::workload::{self, Kind};
use crate::client::{Answer, problem};

/// Maximum latency that the histogram can record, microseconds: a minute, which is longer than every timeout.
const LONGEST_US: u64 = 60_000_000;

/// The bounds for the count of a room and emoji in the final results: at least `accepted`, and at most `accepted +
/// unknown`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) accepted: u64,
    pub(super) unknown: u64,
}

/// The requests with the same outcome, for example the same status.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered {
    pub(super) requests: u64,
    /// The reason in the first of these responses; `None` if that response is not an error or has no reason.
    pub(super) why: Option<String>,
}

/// The counts of all requests and reactions that were sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) expected: BTreeMap<(Room, Emoji), Expected>,
    pub(super) answers: BTreeMap<String, Answered>,
    /// Number of requests without a response: no connection could be opened, or the connection broke.
    pub(super) broken: u64,
    /// Number of requests that the server would also refuse if they were sent again: the response was a client error
    /// other than 408 and 429.
    pub(super) hopeless: u64,
    /// Time from the scheduled start of a request to its response, microseconds.
    pub(super) latency_us: Histogram<u64>,
}

impl Sent {
    /// Returns the sums of accepted and unknown reactions over all rooms and emojis.
    pub(super) fn reactions(&self) -> Expected {
        let mut sum = Expected::default();
        for expected in self.expected.values() {
            sum.accepted += expected.accepted;
            sum.unknown += expected.unknown;
        }
        sum
    }
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            expected: BTreeMap::new(),
            answers: BTreeMap::new(),
            broken: 0,
            hopeless: 0,
            latency_us: latencies(),
        }
    }
}

/// Creates an empty histogram of latencies in microseconds, with three significant digits.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order")
}

/// Adds a latency to a histogram.
pub(super) fn record(latencies_us: &mut Histogram<u64>, latency: Duration) {
    latencies_us.saturating_record(latency.as_micros().max(1) as u64);
}

/// The counts that all requests in flight update.
#[derive(Debug)]
pub(super) struct Ledger {
    rooms: Vec<Room>,
    booked: Mutex<Booked>,
}

#[derive(Debug)]
struct Booked {
    /// The counts of accepted and unknown reactions, indexed by [`Kind`].
    expected: Vec<Expected>,
    sent: Sent,
}

#[derive(Deserialize)]
struct Mixed {
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct Rejected {
    index: usize,
}

impl Ledger {
    /// Creates a ledger for a workload in these rooms.
    pub(super) fn new(rooms: Vec<Room>) -> Self {
        let booked = Booked {
            expected: vec![Expected::default(); rooms.len() * workload::emojis().len()],
            sent: Sent::default(),
        };
        Self {
            rooms,
            booked: Mutex::new(booked),
        }
    }

    /// Counts the outcome of a request.
    pub(super) fn book(&self, kinds: &[Kind], answer: &Answer, latency: Duration) {
        let mut booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let Booked { expected, sent } = &mut *booked;
        record(&mut sent.latency_us, latency);
        note(&mut sent.answers, answer);
        sent.broken += u64::from(!matches!(answer, Answer::Status(..)));
        sent.hopeless += u64::from(is_hopeless(answer));
        let rejected = rejected(answer);
        for (index, kind) in kinds.iter().enumerate() {
            if rejected.contains(&index) {
                continue;
            }
            let expected = &mut expected[*kind as usize];
            match answer {
                Answer::Status(status, _) if status.is_success() => expected.accepted += 1,
                // After a server error the log may still store the reactions, so their outcome is unknown. The
                // exception is a response that reports that no reaction was accepted.
                Answer::Status(status, body) if status.is_server_error() && !kept_nothing(body) => {
                    expected.unknown += 1;
                }
                Answer::Unknown(_) => expected.unknown += 1,
                Answer::Status(..) | Answer::Refused(_) => {}
            }
        }
    }

    /// Whether there were responses, and each of them is an error that a retry would repeat.
    pub(super) fn is_hopeless(&self) -> bool {
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let requests: u64 = booked.sent.answers.values().map(|of| of.requests).sum();
        requests > 0 && requests == booked.sent.hopeless
    }

    /// Returns all counts.
    pub(super) fn close(&self) -> Sent {
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let emojis = workload::emojis();
        let kinds = self
            .rooms
            .iter()
            .flat_map(|room| emojis.iter().map(|emoji| (room.clone(), *emoji)));
        let named = kinds.zip(booked.expected.iter().copied());
        let mut sent = booked.sent.clone();
        sent.expected = named
            .filter(|(_, expected)| *expected != Expected::default())
            .collect();
        sent
    }
}

fn note(answers: &mut BTreeMap<String, Answered>, answer: &Answer) {
    let name = match answer {
        Answer::Status(status, _) => status.to_string(),
        Answer::Refused(_) => "no connection".to_owned(),
        Answer::Unknown(_) => "no response".to_owned(),
    };
    let answered = answers.entry(name).or_default();
    answered.requests += 1;
    if answered.requests == 1 {
        answered.why = match answer {
            Answer::Status(status, _) if status.is_success() => None,
            Answer::Status(_, body) => problem::detail(body),
            Answer::Refused(why) | Answer::Unknown(why) => Some(why.clone()),
        };
    }
}

/// Whether the same request would fail again: the response is a client error. 408 (the request was too slow) and 429
/// (too many requests) do not count.
fn is_hopeless(answer: &Answer) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    matches!(answer, Answer::Status(status, _) if status.is_client_error() && !passing.contains(status))
}

/// Whether an error response reports that none of the request's reactions was accepted. If the log became unreachable
/// while a request waited, ingest does not know whether the log has stored them, and its response does not contain `no
/// reaction was accepted`.
fn kept_nothing(body: &[u8]) -> bool {
    problem::detail(body).is_some_and(|detail| detail.contains("no reaction was accepted"))
}

/// Returns the indices of the reactions in an array that the server rejected.
fn rejected(answer: &Answer) -> Vec<usize> {
    let Answer::Status(StatusCode::MULTI_STATUS, body) = answer else {
        return Vec::new();
    };
    let mixed = serde_json::from_slice(body).unwrap_or(Mixed {
        rejected: Vec::new(),
    });
    mixed
        .rejected
        .into_iter()
        .map(|rejected| rejected.index)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn reactions_without_a_response_are_unknown() {
        let ledger = Ledger::new(vec![Room::default()]);
        let book = |answer| ledger.book(&[0; 3], &answer, Duration::from_millis(2));
        let status = |code, body: &'static str| {
            Answer::Status(StatusCode::from_u16(code).unwrap(), body.into())
        };
        book(status(202, ""));
        book(status(
            207,
            r#"{"accepted":2,"rejected":[{"index":1,"detail":"no"}]}"#,
        ));
        book(status(
            503,
            r#"{"status":503,"detail":"the buffer is full; no reaction was accepted"}"#,
        ));
        book(status(
            503,
            r#"{"status":503,"detail":"the reactions may or may not be stored"}"#,
        ));
        book(status(400, ""));
        book(status(500, ""));
        book(Answer::Refused("refused".into()));
        book(Answer::Unknown("reset".into()));
        let sent = ledger.close();
        let expected = Expected {
            accepted: 5,
            unknown: 9,
        };
        assert_eq!(sent.expected.len(), 1);
        assert_eq!(
            sent.expected[&(Room::default(), workload::emojis()[0])],
            expected
        );
        assert_eq!(sent.reactions(), expected);
        let requests = sent.answers.values().map(|answered| answered.requests);
        assert_eq!(requests.sum::<u64>(), 8);
        let full = &sent.answers["503 Service Unavailable"].why;
        assert_eq!(
            full.as_deref(),
            Some("the buffer is full; no reaction was accepted")
        );
        assert_eq!((sent.broken, sent.latency_us.len()), (2, 8));
    }

    #[test]
    fn it_is_hopeless_while_every_response_is_a_lasting_client_error() {
        for (codes, hopeless) in [
            (&[][..], false),
            (&[404], true),
            (&[400, 401, 404], true),
            (&[404, 202], false),
            (&[404, 503], false),
            (&[429], false),
            (&[408], false),
        ] {
            let ledger = Ledger::new(vec![Room::default()]);
            for code in codes {
                let answer = Answer::Status(StatusCode::from_u16(*code).unwrap(), "".into());
                ledger.book(&[0], &answer, Duration::ZERO);
            }
            assert_eq!(ledger.is_hopeless(), hopeless, "{codes:?}");
        }
        let ledger = Ledger::new(vec![Room::default()]);
        ledger.book(&[0], &Answer::Refused("it restarts".into()), Duration::ZERO);
        assert!(!ledger.is_hopeless());
    }

    #[test]
    fn a_kind_is_counted_for_its_room_and_emoji() {
        let rooms = vec![Room::new("a").unwrap(), Room::new("b").unwrap()];
        let ledger = Ledger::new(rooms.clone());
        let emojis = workload::emojis();
        let kind = (emojis.len() + 2) as Kind;
        let accepted = Answer::Status(StatusCode::ACCEPTED, "".into());
        ledger.book(&[kind], &accepted, Duration::ZERO);
        let sent = ledger.close();
        let kinds: Vec<_> = sent.expected.into_keys().collect();
        assert_eq!(kinds, [(rooms[1].clone(), emojis[2])]);
    }
}
