//! What was sent and what became of it, per room and emoji.
//!
//! Invariant: an answer that nobody received counts as unknown, never as accepted and never as lost.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use emostream_model::{Emoji, Room};
use hdrhistogram::Histogram;
use hyper::StatusCode;
use serde::Deserialize;

use super::crowd::{self, Kind};
use crate::client::{Answer, problem};

/// The longest latency kept exactly; a minute is past every deadline.
const LONGEST_US: u64 = 60_000_000;

/// How many reactions of a room and emoji the finals must show, at least and at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) accepted: u64,
    pub(super) unknown: u64,
}

/// What became of requests that were answered alike.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered {
    pub(super) requests: u64,
    /// What the first of them said, if it was no good answer.
    pub(super) why: Option<String>,
}

/// All that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) expected: BTreeMap<(Room, Emoji), Expected>,
    pub(super) answers: BTreeMap<String, Answered>,
    /// Requests that no server answered: it was not there, or went away.
    pub(super) broken: u64,
    /// Requests that this server will refuse however often they come: it speaks of something else, or of
    /// nothing that we say.
    pub(super) hopeless: u64,
    /// From a request's intended moment to its answer, microseconds.
    pub(super) latency_us: Histogram<u64>,
}

impl Sent {
    /// Reactions accepted, and reactions without an answer.
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

/// For latencies in microseconds, to three digits.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order")
}

/// Notes a latency.
pub(super) fn record(latencies_us: &mut Histogram<u64>, latency: Duration) {
    latencies_us.saturating_record(latency.as_micros().max(1) as u64);
}

/// Shared by the requests under way.
#[derive(Debug)]
pub(super) struct Ledger {
    rooms: Vec<Room>,
    booked: Mutex<Booked>,
}

#[derive(Debug)]
struct Booked {
    /// By kind.
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
    /// For a crowd in these rooms.
    pub(super) fn new(rooms: Vec<Room>) -> Self {
        let booked = Booked {
            expected: vec![Expected::default(); rooms.len() * crowd::mood().len()],
            sent: Sent::default(),
        };
        Self {
            rooms,
            booked: Mutex::new(booked),
        }
    }

    /// Books a request.
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
                // What an ingest gave up on may still reach the log late, unless it says otherwise.
                Answer::Status(status, body) if status.is_server_error() && !kept_nothing(body) => {
                    expected.unknown += 1;
                }
                Answer::Unknown(_) => expected.unknown += 1,
                Answer::Status(..) | Answer::Refused(_) => {}
            }
        }
    }

    /// Whether there were answers, and each of them was one that does not get better.
    pub(super) fn is_hopeless(&self) -> bool {
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let requests: u64 = booked.sent.answers.values().map(|of| of.requests).sum();
        requests > 0 && requests == booked.sent.hopeless
    }

    /// What was booked.
    pub(super) fn close(&self) -> Sent {
        let booked = self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let mood = crowd::mood();
        let kinds = self
            .rooms
            .iter()
            .flat_map(|room| mood.iter().map(|emoji| (room.clone(), *emoji)));
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
        Answer::Unknown(_) => "no answer".to_owned(),
    };
    let answered = answers.entry(name).or_default();
    answered.requests += 1;
    if answered.requests == 1 {
        answered.why = match answer {
            Answer::Status(status, _) if status.is_success() => None,
            Answer::Status(_, body) => problem::sentence(body),
            Answer::Refused(why) | Answer::Unknown(why) => Some(why.clone()),
        };
    }
}

/// A client's mistake is made again and again; one that is slow or too fast may yet be served.
fn is_hopeless(answer: &Answer) -> bool {
    let passing = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
    matches!(answer, Answer::Status(status, _) if status.is_client_error() && !passing.contains(status))
}

/// Whether a problem says that nothing of the request was kept. Of those who waited when the log went away,
/// an ingest does not know it.
fn kept_nothing(body: &[u8]) -> bool {
    problem::sentence(body).is_some_and(|sentence| sentence.contains("nothing was kept"))
}

/// The entries of an array that the server refused.
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn only_what_was_answered_counts_and_what_was_not_is_unknown() {
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
            r#"{"status":503,"detail":"the buffer is full; nothing was kept"}"#,
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
            sent.expected[&(Room::default(), crowd::mood()[0])],
            expected
        );
        assert_eq!(sent.reactions(), expected);
        let requests = sent.answers.values().map(|answered| answered.requests);
        assert_eq!(requests.sum::<u64>(), 8);
        let full = &sent.answers["503 Service Unavailable"].why;
        assert_eq!(
            full.as_deref(),
            Some("the buffer is full; nothing was kept")
        );
        assert_eq!((sent.broken, sent.latency_us.len()), (2, 8));
    }

    #[test]
    fn it_is_hopeless_while_every_answer_is_one_that_does_not_get_better() {
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
    fn a_kind_is_booked_under_its_room_and_its_emoji() {
        let rooms = vec![Room::new("a").unwrap(), Room::new("b").unwrap()];
        let ledger = Ledger::new(rooms.clone());
        let mood = crowd::mood();
        let kind = (mood.len() + 2) as Kind;
        let accepted = Answer::Status(StatusCode::ACCEPTED, "".into());
        ledger.book(&[kind], &accepted, Duration::ZERO);
        let sent = ledger.close();
        let kinds: Vec<_> = sent.expected.into_keys().collect();
        assert_eq!(kinds, [(rooms[1].clone(), mood[2])]);
    }
}
