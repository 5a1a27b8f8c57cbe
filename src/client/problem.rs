//! What a server says in a problem (RFC 9457).

use serde::Deserialize;

#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// The sentence of an answer's body, if it is a problem.
pub(crate) fn sentence(body: &[u8]) -> Option<String> {
    let problem = serde_json::from_slice::<Problem>(body);
    problem.ok().map(|problem| problem.detail)
}
