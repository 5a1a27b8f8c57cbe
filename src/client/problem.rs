//! Reads the problem details of error responses (RFC 9457).

use serde::Deserialize;

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Returns the `detail` of a response's body; `None` if the body is not a problem (RFC 9457).
pub(crate) fn detail(body: &[u8]) -> Option<String> {
    let problem = serde_json::from_slice::<Problem>(body);
    problem.ok().map(|problem| problem.detail)
}
