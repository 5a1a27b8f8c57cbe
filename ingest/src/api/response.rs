//! Responses: the receipt of accepted reactions, and the problem documents of errors.

use std::time::Duration;

use axum::response::IntoResponse;
use emostream_http::{Body, Problem, Response};
use emostream_log::LogError;
use hyper::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    admission::rate_limiter::{LimitedKey, RateExceeded},
    api::body::{Rejection, RejectionKind},
    api::request::{ApiFlavor, Wait},
};

/// The result of a request of which at least one reaction was accepted, or which was empty.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// Number of accepted reactions.
    pub(crate) count: usize,
    /// Whether the reactions are buffered or stored when the response is sent.
    pub(crate) wait: Wait,
    /// The rejected entries.
    pub(crate) rejected: Vec<Rejection>,
}

#[derive(Serialize)]
struct AcceptedBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<usize>,
    #[serde(skip_serializing_if = "<[Rejection]>::is_empty")]
    rejected: &'a [Rejection],
}

impl Receipt {
    /// Returns 202, 200 or 207. The status depends on [`Wait`], on the API, and on whether entries were rejected.
    pub(crate) fn into_response(self, flavor: ApiFlavor) -> Response {
        let stored = self.wait == Wait::Stored;
        let whole = self.rejected.is_empty();
        let status = match (whole, flavor, self.wait) {
            (false, _, _) => StatusCode::MULTI_STATUS,
            (true, ApiFlavor::V1, Wait::Buffered) => StatusCode::ACCEPTED,
            (true, ApiFlavor::V1, Wait::Stored) | (true, ApiFlavor::Flask, _) => StatusCode::OK,
        };
        let flask = flavor == ApiFlavor::Flask;
        let word = if whole { "success" } else { "partial" };
        let body = AcceptedBody {
            status: flask.then_some(word),
            // Clients of the Flask API read `accepted`, so their response has it beside `stored`.
            accepted: (flask || !stored).then_some(self.count),
            stored: stored.then_some(self.count),
            rejected: &self.rejected,
        };
        let mut text = serde_json::to_vec(&body).unwrap_or_default();
        text.push(b'\n');
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// Returns the problem of a request without an accepted entry: 503 if all entries are rejected because too many rooms
/// are in use, 403 if the token forbids all entries, and otherwise 400.
pub(crate) fn all_rejected(rejected: Vec<Rejection>, is_array: bool) -> Problem {
    let first = rejected.first().map_or("", |first| &first.detail);
    let all = |kind| rejected.iter().all(|rejection| rejection.kind == kind);
    if all(RejectionKind::RoomLimit) {
        let problem =
            Problem::unavailable(format!("{first}; no reaction was accepted, retry later"));
        return match is_array {
            true => problem.member("rejected", json!(rejected)),
            false => problem,
        };
    }
    let (status, word) = match all(RejectionKind::Forbidden) {
        true => (StatusCode::FORBIDDEN, "allowed"),
        false => (StatusCode::BAD_REQUEST, "valid"),
    };
    if !is_array {
        return Problem::new(status, first.to_owned());
    }
    let detail = match rejected.len() {
        1 => first.to_owned(),
        count => {
            format!("none of the {count} reactions is {word}; the error of the first one: {first}")
        }
    };
    Problem::new(status, detail).member("rejected", json!(rejected))
}

/// Returns 429: a user or an address exceeds its rate.
pub(crate) fn rate_exceeded(exceeded: RateExceeded) -> Problem {
    let RateExceeded {
        limited,
        rate,
        wait,
    } = exceeded;
    let sender = match limited {
        LimitedKey::User => "a user of this request",
        LimitedKey::Address => "this address",
    };
    let most = rate.burst();
    let advice = match wait {
        Some(_) => "retry later".to_owned(),
        None => format!("at most {most} are accepted at once: send fewer"),
    };
    let detail = format!("{sender} sends more than {rate}; no reaction was accepted, {advice}");
    // Maximum jitter, so that clients that are refused at the same moment retry at different moments.
    const SPREAD_SECONDS: u64 = 2;
    let wait = wait.unwrap_or_default().as_secs_f64().ceil() as u64;
    let jitter = rand::random_range(0..=SPREAD_SECONDS);
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
        .retry_after(Duration::from_secs(wait.saturating_add(jitter)))
}

/// Returns 503: the buffer does not have enough permits for the request's reactions.
pub(crate) fn buffer_full() -> Problem {
    Problem::unavailable(
        "too many reactions wait for the log; no reaction was accepted, retry later",
    )
}

/// Returns 503: no partition of the log is available.
pub(crate) fn log_unavailable() -> Problem {
    Problem::unavailable("the log does not respond; no reaction was accepted, retry later")
}

/// Returns 503: the service is stopping.
pub(crate) fn stopping() -> Problem {
    Problem::unavailable("the service is stopping; no reaction was accepted, retry")
}

/// Returns 503 if the log did not store the reactions, or 413 if their batch is too large for the topic.
pub(crate) fn not_stored(error: &LogError) -> Problem {
    if let LogError::TooLarge { .. } = error {
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
    }
    Problem::unavailable(match error {
        // The log may have stored the reactions, and only its acknowledgement was lost.
        LogError::TimedOut { detail } => format!(
            "the log did not acknowledge in time: {detail}; it is not known whether the reactions are stored"
        ),
        error => format!("the log did not store the reactions: {error}"),
    })
}

/// Returns 503: the log has neither stored nor refused the reactions in time.
pub(crate) fn not_yet_stored() -> Problem {
    Problem::unavailable("the log does not respond; the reactions may or may not be stored later")
}

/// Returns the response of a problem. Clients of the Flask API read the field `error`, so their response has it too.
pub(crate) fn refusal(problem: Problem, flavor: ApiFlavor) -> Response {
    match flavor {
        ApiFlavor::V1 => problem.into_response(),
        ApiFlavor::Flask => {
            let error = problem.detail().to_owned();
            problem.member("error", error).into_response()
        }
    }
}
