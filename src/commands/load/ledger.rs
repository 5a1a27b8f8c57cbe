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

use super::crowd::Reacted;
use crate::client::Answer;

/// How many reactions of a room and emoji the finals must show, at least and at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) accepted: u64,
    pub(super) unknown: u64,
}

/// All that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) expected: BTreeMap<(Room, Emoji), Expected>,
    pub(super) statuses: BTreeMap<String, u64>,
    /// From a request's intended moment to its answer, microseconds.
    pub(super) latency_us: Histogram<u64>,
}

/// Shared by the senders.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Sent>);

/// The longest latency kept exactly; a minute is past every deadline.
const LONGEST_US: u64 = 60_000_000;

impl Default for Sent {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3);
        Self {
            expected: BTreeMap::new(),
            statuses: BTreeMap::new(),
            latency_us: latency_us.expect("the bounds are in order"),
        }
    }
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
    /// Books a request.
    pub(super) fn book(&self, reacted: Vec<Reacted>, answer: &Answer, latency: Duration) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.latency_us
            .saturating_record(latency.as_micros().max(1) as u64);
        let status = match answer {
            Answer::Status(status, _) => status.to_string(),
            Answer::Refused(_) => "no connection".to_owned(),
            Answer::Unknown(_) => "no answer".to_owned(),
        };
        *sent.statuses.entry(status).or_default() += 1;
        let rejected = rejected(answer);
        for (index, what) in reacted.into_iter().enumerate() {
            if rejected.contains(&index) {
                continue;
            }
            match answer {
                Answer::Status(status, _) if status.is_success() => {
                    sent.expected.entry(what).or_default().accepted += 1;
                }
                // 5xx: what an ingest said no to may still reach the log late; 503 says it did not.
                Answer::Status(status, _)
                    if status.is_server_error() && *status != StatusCode::SERVICE_UNAVAILABLE =>
                {
                    sent.expected.entry(what).or_default().unknown += 1;
                }
                Answer::Unknown(_) => sent.expected.entry(what).or_default().unknown += 1,
                Answer::Status(..) | Answer::Refused(_) => {}
            }
        }
    }

    /// What was booked.
    pub(super) fn close(&self) -> Sent {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
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
        let ledger = Ledger::default();
        let fire = (Room::default(), Emoji::from_text("🔥").unwrap());
        let book = |answer| ledger.book(vec![fire.clone(); 3], &answer, Duration::from_millis(2));
        let status = |code, body: &'static str| {
            Answer::Status(StatusCode::from_u16(code).unwrap(), body.into())
        };
        book(status(202, ""));
        book(status(
            207,
            r#"{"accepted":2,"rejected":[{"index":1,"detail":"no"}]}"#,
        ));
        book(status(503, ""));
        book(status(400, ""));
        book(status(500, ""));
        book(Answer::Refused("refused".into()));
        book(Answer::Unknown("reset".into()));
        let sent = ledger.close();
        let expected = Expected {
            accepted: 5,
            unknown: 6,
        };
        assert_eq!(sent.expected[&fire], expected);
        assert_eq!(sent.statuses.values().sum::<u64>(), 7);
        assert_eq!(sent.latency_us.len(), 7);
    }
}
