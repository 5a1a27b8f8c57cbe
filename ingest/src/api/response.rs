//! What clients are told.

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
    admission::rate_limiter::{TooFast, Who},
    api::body::{Fault, Rejection},
    api::request::{Dialect, Wait},
};

/// What became of a request whose reactions, or some of them, were taken.
#[derive(Debug)]
pub(crate) struct Receipt {
    /// How many were taken.
    pub(crate) taken: usize,
    /// How far they have come.
    pub(crate) wait: Wait,
    /// Those that were not taken.
    pub(crate) rejected: Vec<Rejection>,
}

#[derive(Serialize)]
struct Good<'a> {
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
    /// 202, 200 or 207, by what was asked for and what came of it.
    pub(crate) fn into_response(self, dialect: Dialect) -> Response {
        let stored = self.wait == Wait::Stored;
        let whole = self.rejected.is_empty();
        let status = match (whole, dialect, self.wait) {
            (false, _, _) => StatusCode::MULTI_STATUS,
            (true, Dialect::Own, Wait::Buffered) => StatusCode::ACCEPTED,
            (true, Dialect::Own, Wait::Stored) | (true, Dialect::Flask, _) => StatusCode::OK,
        };
        let flask = dialect == Dialect::Flask;
        let word = if whole { "success" } else { "partial" };
        let good = Good {
            status: flask.then_some(word),
            // The other dialect's clients know no other name.
            accepted: (flask || !stored).then_some(self.taken),
            stored: stored.then_some(self.taken),
            rejected: &self.rejected,
        };
        let mut text = serde_json::to_vec(&good).unwrap_or_default();
        text.push(b'\n');
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// 400 for a request none of whose entries is good; 403 if all of them would be another's to send, 503 if
/// all are for rooms that are too many for now.
pub(crate) fn all_rejected(rejected: Vec<Rejection>, is_array: bool) -> Problem {
    let first = rejected.first().map_or("", |first| &first.detail);
    let all = |fault| rejected.iter().all(|rejection| rejection.fault == fault);
    if all(Fault::Crowded) {
        let problem =
            Problem::unavailable(format!("{first}; nothing was kept, send it again later"));
        return match is_array {
            true => problem.member("rejected", json!(rejected)),
            false => problem,
        };
    }
    let (status, word) = match all(Fault::Forbidden) {
        true => (StatusCode::FORBIDDEN, "allowed"),
        false => (StatusCode::BAD_REQUEST, "valid"),
    };
    if !is_array {
        return Problem::new(status, first.to_owned());
    }
    let detail = match rejected.len() {
        1 => first.to_owned(),
        count => format!("none of the {count} reactions is {word}; the first: {first}"),
    };
    Problem::new(status, detail).member("rejected", json!(rejected))
}

/// 429: a user or an address sends too fast.
pub(crate) fn too_fast(too_fast: TooFast) -> Problem {
    let TooFast { who, rate, wait } = too_fast;
    let who = match who {
        Who::User => "a user of this request",
        Who::Address => "this address",
    };
    let most = rate.burst();
    let advice = match wait {
        Some(_) => "send it again later".to_owned(),
        None => format!("nor may more than {most} come at once: send fewer"),
    };
    let detail = format!("{who} sends more than {rate}; nothing was kept, {advice}");
    // So much later at most, that those refused at one moment do not come back at one moment.
    const SPREAD_SECONDS: u64 = 2;
    let wait = wait.unwrap_or_default().as_secs_f64().ceil() as u64;
    let jitter = rand::random_range(0..=SPREAD_SECONDS);
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
        .retry_after(Duration::from_secs(wait.saturating_add(jitter)))
}

/// 503: the buffer has no room for the request's reactions.
pub(crate) fn buffer_full() -> Problem {
    Problem::unavailable(
        "too many reactions wait for the log; nothing was kept, send it again later",
    )
}

/// 503: the log takes nothing at the moment.
pub(crate) fn log_away() -> Problem {
    Problem::unavailable("the log does not answer; nothing was kept, send it again later")
}

/// 503: the service is stopping.
pub(crate) fn stopping() -> Problem {
    Problem::unavailable("the service is stopping; nothing was kept, send it again")
}

/// 503, or 413 for what the log never takes: the log did not acknowledge what was to be stored.
pub(crate) fn not_stored(error: &LogError) -> Problem {
    if let LogError::TooLarge { .. } = error {
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error.to_string());
    }
    Problem::unavailable(match error {
        // The acknowledgement may be what was lost.
        LogError::TimedOut { detail } => format!(
            "the log did not acknowledge in time: {detail}; whether the reactions are stored is not known"
        ),
        error => format!("the log did not store the reactions: {error}"),
    })
}

/// 503: the log has neither stored nor refused in time.
pub(crate) fn not_yet_stored() -> Problem {
    Problem::unavailable("the log does not answer; the reactions may or may not be stored later")
}

/// The answer of a problem; clients of the usual Flask servers look at `error`.
pub(crate) fn refusal(problem: Problem, dialect: Dialect) -> Response {
    match dialect {
        Dialect::Own => problem.into_response(),
        Dialect::Flask => {
            let error = problem.detail().to_owned();
            problem.member("error", error).into_response()
        }
    }
}
