//! The parameters in a request's URL.

use std::borrow::Cow;

use emostream_http::Problem;
use emostream_model::{ResultId, Room, parse_timestamp};
use hyper::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;

use crate::hub::entry::Attendance;

/// Returns the room with this percent-decoded name.
pub(crate) fn room(name: &str) -> Result<Room, Problem> {
    Room::new(name).map_err(|invalid| Problem::bad_request(format!("room: {invalid}")))
}

/// Returns whether a subscriber joins a room as audience or as observer, and the final result after which it resumes.
pub(crate) fn joining(
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(Attendance, Option<ResultId>), Problem> {
    Ok((attendance(uri)?, since(uri, headers)?))
}

/// Returns the final result after which the subscriber resumes: from `Last-Event-ID`, which an `EventSource` sends when
/// it reconnects, or from the parameter `since`.
fn since(uri: &Uri, headers: &HeaderMap) -> Result<Option<ResultId>, Problem> {
    let header = headers.get("last-event-id").map(|value| value.to_str());
    let header = header.transpose().map_err(|_| {
        Problem::bad_request(
            "Last-Event-ID: an id has the form PARTITION-OFFSET, for example 3-10422",
        )
    })?;
    // A browser that reconnects sends its newest id in the header, but the URL still has the first id. So the header
    // has precedence.
    let (name, id) = match header.filter(|id| !id.is_empty()) {
        Some(id) => ("Last-Event-ID", Some(id)),
        None => ("since", parameter(uri, "since").filter(|id| !id.is_empty())),
    };
    let parsed = id.map(str::parse).transpose();
    parsed.map_err(|error| Problem::bad_request(format!("{name}: {error}")))
}

/// Returns whether the subscriber counts as audience, or is an observer, which does not count.
fn attendance(uri: &Uri) -> Result<Attendance, Problem> {
    match parameter(uri, "observer") {
        None | Some("" | "false") => Ok(Attendance::Audience),
        Some("true") => Ok(Attendance::Observer),
        Some(_) => Err(Problem::bad_request("observer: expected true or false")),
    }
}

/// Returns a time from the query, which may be Unix milliseconds or RFC 3339. The result is in Unix milliseconds.
pub(crate) fn moment(uri: &Uri, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = parameter(uri, name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let text = decoded(text);
    let moment = match text.parse() {
        Ok(ms) => Ok(ms),
        Err(_) => parse_timestamp(&text),
    };
    let problem = |_| format!("{name}: expected Unix milliseconds or RFC 3339");
    moment
        .map(Some)
        .map_err(|error| Problem::bad_request(problem(error)))
}

/// Decodes percent-encoding (RFC 3986, 2.1). Invalid UTF-8 is replaced, so the caller rejects it as an invalid time.
fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// Returns a parameter of the query, not percent-decoded.
pub(crate) fn parameter<'u>(uri: &'u Uri, name: &str) -> Option<&'u str> {
    let pairs = uri.query()?.split('&');
    let mut named = pairs.filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    named.next()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn times_and_ids_are_parsed_from_the_query() {
        let uri: Uri = "/x?from=1764000000123&to=2025-11-24T16%3A00%3A00Z&since=3-17"
            .parse()
            .unwrap();
        assert_eq!(moment(&uri, "from").unwrap(), Some(1_764_000_000_123));
        assert_eq!(moment(&uri, "to").unwrap(), Some(1_764_000_000_000));
        assert_eq!(moment(&uri, "none").unwrap(), None);
        let id = ResultId {
            partition: 3,
            offset: 17,
        };
        assert_eq!(since(&uri, &HeaderMap::new()).unwrap(), Some(id));
        assert_eq!(attendance(&uri).unwrap(), Attendance::Audience);
        let observer: Uri = "/x?observer=true".parse().unwrap();
        assert_eq!(attendance(&observer).unwrap(), Attendance::Observer);
        let bad: Uri = "/x?from=yesterday&since=17&observer=1".parse().unwrap();
        assert!(attendance(&bad).is_err());
        assert!(moment(&bad, "from").is_err());
        assert!(since(&bad, &HeaderMap::new()).is_err());
    }
}
