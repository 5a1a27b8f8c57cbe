//! What a publisher or a relay is configured with.

use std::{num::NonZeroUsize, str::FromStr, time::Duration};

use emostream_http::{AllowOrigin, Gate};
use emostream_log::EventClock;
use emostream_model::Topics;
use hyper::{Uri, http::uri::Authority};

/// Longest silence on a subscriber's connection, unless a [`Reception`] says otherwise. Proxies close
/// connections that are silent for longer, most of them after 30 or 60 s.
pub const SUBSCRIBER_HEARTBEAT: Duration = Duration::from_secs(15);

/// What a publisher is told, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where results come from.
    pub topics: Topics,
    /// Told in `hello`, until results tell otherwise: how long a window is.
    pub window_ms: u64,
    /// Told in `hello`: how often a live tally comes at most.
    pub live_ms: u64,
    /// Told in `hello`, until results tell otherwise: how many identical emojis make a swarm.
    pub swarm_size: u64,
    /// What subscribers meet.
    pub reception: Reception,
}

/// What subscribers meet, at a publisher and at a relay.
#[derive(Debug, Clone)]
pub struct Reception {
    /// How long finals are kept for those who resume.
    pub ring: Duration,
    /// Where the page sends reactions; to where it came from if that is not said.
    pub ingest_url: Option<IngestUrl>,
    /// Whose pages may receive.
    pub allow_origin: AllowOrigin,
    /// Who may receive; the page is everybody's.
    pub gate: Gate,
    /// Threads that write to subscribers; as many as there are cores if that is not said.
    pub shards: Option<NonZeroUsize>,
    /// At the end, subscribers are told to come back spread over this at most.
    pub drain: Duration,
    /// The clock that dates events: the log's and the ingest's where they are in this process.
    pub clock: EventClock,
    /// Longest silence on a subscriber's connection, announced in `hello`: a `heartbeat` frame is sent where
    /// nothing else was. At least 2 s, since a shard visits each connection once a second.
    pub heartbeat: Duration,
}

/// The origin of an ingest: `https://react.example`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestUrl(pub(crate) String);

/// What is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write http://HOST[:PORT] or https://HOST[:PORT], without a path")]
pub struct InvalidIngestUrl;

impl FromStr for IngestUrl {
    type Err = InvalidIngestUrl;

    fn from_str(text: &str) -> Result<Self, InvalidIngestUrl> {
        let uri: Uri = text.trim().parse().map_err(|_| InvalidIngestUrl)?;
        let scheme = uri.scheme_str().filter(|it| ["http", "https"].contains(it));
        // Of these alone, it is the same in a page and in a policy.
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let host = uri.authority().map(Authority::as_str);
        let host = host.filter(|host| !host.starts_with(':') && host.chars().all(plain));
        match (scheme, host) {
            (Some(scheme), Some(host)) if uri.path() == "/" && uri.query().is_none() => {
                Ok(Self(format!("{scheme}://{host}")))
            }
            _ => Err(InvalidIngestUrl),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingest_is_named_by_its_origin() {
        for (text, origin) in [
            ("https://react.example", "https://react.example"),
            ("http://10.0.0.1:8080/", "http://10.0.0.1:8080"),
            (" http://[::1]:9 ", "http://[::1]:9"),
        ] {
            assert_eq!(text.parse(), Ok(IngestUrl(origin.to_owned())), "{text}");
        }
        for text in [
            "",
            "react.example",
            "ftp://h",
            "http://h/path",
            "http://h/?q",
            "http://u@h",
            "http://h;x",
            "http://:80",
            "http://h'x",
        ] {
            assert!(text.parse::<IngestUrl>().is_err(), "{text}");
        }
    }
}
