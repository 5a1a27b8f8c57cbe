//! Validated settings of an ingest. The other modules of this crate depend on these settings and not on flags.

use std::time::Duration;

use emostream_http::{AllowOrigin, Authenticator, BodyLimits, TrustedProxies};
use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics};

use crate::{RateLimit, RoomPattern};

/// Maximum bytes of a body (docs/reference/limits.md).
pub(crate) const MAX_BODY_BYTES: usize = 256 << 10;

/// Maximum reactions of a request (docs/reference/limits.md).
pub(crate) const MAX_REQUEST_REACTIONS: usize = 1000;

/// Timeout of requests that wait for the log. After this time the response is 503, and the client does not know whether
/// the reactions are stored. The timeout is shorter than the 10 s in which a process must stop.
pub(crate) const LOG_TIMEOUT: Duration = Duration::from_secs(8);

/// Timeout for the log to store accepted reactions. It is longer than any outage in which no operator intervenes.
/// [`crate::producer::partition_health::ACK_TIMEOUT`] limits the number of reactions that wait during an outage.
pub(crate) const ACCEPTED_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Interval at which the number of partitions is read from the log. A dataflow restarts within 5 s after a partition
/// was added, so it usually reads the partition before the first record is written to it.
pub(crate) const PARTITION_REFRESH: Duration = Duration::from_secs(60);

/// Settings of an ingest.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topics; reactions are written to [`Topics::reactions`].
    pub topics: Topics,
    /// Interval of flushes. The lateness of the dataflow must be longer. The first request after an interval without
    /// reactions does not wait for a flush.
    pub flush: Duration,
    /// Number of pending reactions that triggers a flush before the interval ends.
    pub flush_count: usize,
    /// Maximum number of reactions that are pending or unacknowledged. A reaction takes at most 152 bytes, with the
    /// longest user id, so the default takes at most 30 MB.
    pub buffer_reactions: u32,
    /// Timeout for receiving a body.
    pub body_time: Duration,
    /// Maximum bytes of all bodies that are being received; the first 4 KiB of each body are not counted. The default
    /// is enough for 128 bodies of maximum size.
    pub bodies_bytes: u32,
    /// Pattern that the names of rooms must match; `None` accepts all names.
    pub rooms: Option<RoomPattern>,
    /// Maximum number of rooms in use at once. It limits the memory of the dataflow, which has tallies for each room.
    pub max_rooms: usize,
    /// The names by which clients may send emojis.
    pub emojis: EmojiNames,
    /// Origins whose pages may send reactions.
    pub allow_origin: AllowOrigin,
    /// Verifies the tokens of senders.
    pub authenticator: Authenticator,
    /// Rate limit of a user; `None` for no limit.
    pub per_user: Option<RateLimit>,
    /// Rate limit of an IPv4 address or of a /64 network of IPv6; `None` for no limit.
    pub per_address: Option<RateLimit>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: TrustedProxies,
    /// Clock of event times. If the log is in this process, it is the log's clock.
    pub clock: EventClock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topics: Topics::default(),
            flush: Duration::from_millis(500),
            flush_count: 20_000,
            buffer_reactions: 200_000,
            body_time: Duration::from_secs(10),
            bodies_bytes: 32 << 20,
            rooms: None,
            max_rooms: 10_000,
            emojis: EmojiNames::default(),
            allow_origin: AllowOrigin::Any,
            authenticator: Authenticator::default(),
            per_user: None,
            per_address: None,
            trusted_proxies: TrustedProxies::default(),
            clock: EventClock::host(),
        }
    }
}

impl Config {
    /// Returns the limits of request bodies.
    pub(crate) fn bodies(&self) -> BodyLimits {
        BodyLimits {
            body_bytes: MAX_BODY_BYTES,
            time: self.body_time,
            total_bytes: self.bodies_bytes,
        }
    }
}
