//! The configuration of a publisher or a relay.

use std::{num::NonZeroUsize, str::FromStr, time::Duration};

use emostream_http::{AllowOrigin, Authenticator};
use emostream_log::EventClock;
use emostream_model::Topics;
use hyper::{Uri, http::uri::Authority};

/// Maximum time without a frame on a subscriber's connection, unless a [`SubscriberConfig`] has another value. Proxies
/// close silent connections, most of them after 30 or 60 s, so the time is shorter than that.
pub const SUBSCRIBER_HEARTBEAT: Duration = Duration::from_secs(15);

/// The validated configuration of a publisher.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names of the topics that contain the results.
    pub topics: Topics,
    /// Length of a window. It is sent in `hello` until a result with another length is applied.
    pub window_ms: u64,
    /// Minimum time between two live tallies of a room. It is sent in `hello`.
    pub live_ms: u64,
    /// Number of identical emojis in a swarm. It is sent in `hello` until a result with another number is applied.
    pub swarm_size: u64,
    /// Settings with which subscribers are served.
    pub subscribers: SubscriberConfig,
}

/// Settings with which a publisher or a relay serves subscribers.
#[derive(Debug, Clone)]
pub struct SubscriberConfig {
    /// Time for which finals stay in the ring of a room. A subscriber that reconnects within this time can resume.
    pub ring: Duration,
    /// Origin of the ingest to which the page sends reactions. `None`: the server from which the page was loaded.
    pub ingest_url: Option<IngestUrl>,
    /// Whether the viewer page offers a demo crowd. The page posts the reactions of the demo crowd to this server, so
    /// this server must have an ingest.
    pub demo_crowd: bool,
    /// Origins whose pages may subscribe.
    pub allow_origin: AllowOrigin,
    /// Verifies the tokens of subscribers. The pages are served without a token.
    pub authenticator: Authenticator,
    /// Number of threads that write to subscribers. `None`: one thread for each CPU core.
    pub shards: Option<NonZeroUsize>,
    /// Maximum time within which subscribers reconnect after a shutdown.
    pub drain: Duration,
    /// The clock that sets the times of events. If the log and the ingest run in this process, they use the same clock.
    pub clock: EventClock,
    /// Maximum time without a frame on a subscriber's connection: a `heartbeat` is sent before it has passed. `hello`
    /// announces this time. It must be at least 2 s, since a shard sweeps each connection only once a second.
    pub heartbeat: Duration,
}

/// The origin of an ingest: `https://react.example`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestUrl(pub(crate) String);

/// The text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("write http://HOST[:PORT] or https://HOST[:PORT], without a path")]
pub struct InvalidIngestUrl;

impl FromStr for IngestUrl {
    type Err = InvalidIngestUrl;

    fn from_str(text: &str) -> Result<Self, InvalidIngestUrl> {
        let uri: Uri = text.trim().parse().map_err(|_| InvalidIngestUrl)?;
        let scheme = uri.scheme_str().filter(|it| ["http", "https"].contains(it));
        // Other characters would have to be escaped in the page or in its Content-Security-Policy, so they are
        // rejected.
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
    fn an_ingest_url_is_an_origin() {
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
