//! Errors as RFC 9457 problem details.

use std::{borrow::Cow, fmt::Write, time::Duration};

use axum::response::IntoResponse;
use hyper::{
    StatusCode,
    header::{
        ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    },
};
use serde_json::{Map, Value};

use crate::{
    Body, Response,
    message::request_id::{self, REQUEST_ID},
};

/// The content type of a problem.
const PROBLEM_JSON: &str = "application/problem+json";

/// The detail of a 5xx response. It is stored in the extensions of the response, so that the log line of the failed
/// request can contain it.
#[derive(Clone)]
pub(crate) struct Failure(pub(crate) Cow<'static, str>);

/// An error response: `application/problem+json` with `title`, `status`, `detail` and further members.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// Creates a problem. `detail` is a sentence that names the error and what to do.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            detail: detail.into(),
            members: Map::new(),
            headers: Vec::new(),
        }
    }

    /// Returns a problem with the status 400.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Returns the 404 of a path without a route.
    pub fn unknown_path() -> Self {
        let detail = "there is nothing at this path; reactions are sent to an ingest, and rooms are read \
                      from a publisher or a relay";
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Returns a 405 with the allowed methods, comma separated.
    pub fn method_not_allowed(allowed: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("this path allows {allowed}"),
        )
        .header(ALLOW, HeaderValue::from_static(allowed))
    }

    /// Returns a 503 with a jittered `Retry-After`.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(jittered_retry())
    }

    /// Adds a member to the problem.
    pub fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header to the response.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sets `Retry-After`, in whole seconds, at least one.
    pub fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs().max(1);
        self.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the sentence that names the error and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the problem as the bytes of an HTTP/1.1 response, for a connection that is closed before a request is
    /// read from it.
    pub(crate) fn closing_response(&self) -> String {
        let text = self.text();
        let mut response = format!("HTTP/1.1 {}\r\n", self.status);
        let mut add = |name: HeaderName, value: &str| {
            // A write to a string never fails, so the result is ignored.
            let _ = write!(response, "{name}: {value}\r\n");
        };
        for (name, value) in &self.headers {
            add(name.clone(), value.to_str().unwrap_or_default());
        }
        add(CONNECTION, "close");
        add(CONTENT_TYPE, PROBLEM_JSON);
        add(CONTENT_LENGTH, &text.len().to_string());
        add(REQUEST_ID, &request_id::random());
        response + "\r\n" + &text
    }

    /// Returns the body of the response.
    pub(crate) fn text(&self) -> String {
        let mut members = self.members.clone();
        let title = self.status.canonical_reason().unwrap_or("Error");
        members.insert("title".to_owned(), title.into());
        members.insert("status".to_owned(), self.status.as_u16().into());
        members.insert("detail".to_owned(), (*self.detail).into());
        let mut text = Value::Object(members).to_string();
        text.push('\n');
        text
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.text()));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static(PROBLEM_JSON);
        response.headers_mut().insert(CONTENT_TYPE, json);
        response.headers_mut().extend(self.headers);
        if self.status.is_server_error() {
            response.extensions_mut().insert(Failure(self.detail));
        }
        response
    }
}

/// Returns a random time of one to three seconds for `Retry-After`. So clients that are refused at the same moment do
/// not all retry at the same moment.
fn jittered_retry() -> Duration {
    Duration::from_secs(rand::random_range(1..=3))
}
