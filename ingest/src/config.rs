//! What an ingest can be told, validated: nothing behind it sees a flag.

use std::time::Duration;

use emostream_http::{AllowOrigin, Authenticator, BodyLimits, TrustedProxies};
use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics};

use crate::{RateLimit, RoomPattern};

/// Maximum bytes of a body (README.md, "Send reactions").
pub(crate) const MAX_BODY_BYTES: usize = 256 << 10;

/// Maximum reactions of a request (README.md, "Send reactions").
pub(crate) const MAX_REQUEST_REACTIONS: usize = 1000;

/// Who waits is told after this what is not known: a process that is told to stop has 10 s.
pub(crate) const LOG_TIMEOUT: Duration = Duration::from_secs(8);

/// Timeout for the log to store accepted reactions: longer than any outage without an operator.
/// [`crate::producer::partition_health::SILENCE`] bounds how many reactions wait meanwhile.
pub(crate) const ACCEPTED_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How often the number of partitions is looked up. A dataflow that meets a new partition restarts
/// within 5 s, so it reads the partition before anything is written to it.
pub(crate) const PARTITIONS_EVERY: Duration = Duration::from_secs(60);

/// The settings of an ingest. The defaults are the interface's.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where reactions go.
    pub topics: Topics,
    /// How often reactions go to the log; lateness must exceed it.
    pub flush: Duration,
    /// This many reactions go to the log at once.
    pub flush_count: usize,
    /// The most reactions that wait for the log or its acknowledgement. 152 bytes each at most, with the
    /// longest users: the default is 30 MB.
    pub buffer_reactions: u32,
    /// How long a body may take to arrive.
    pub body_time: Duration,
    /// The most bytes of bodies over 4 KiB that are read at once: the default is 128 of the largest.
    pub bodies_bytes: u32,
    /// Which rooms exist; `None` for all.
    pub rooms: Option<RoomPattern>,
    /// The most rooms in use at once: each costs the dataflow its own tallies.
    pub max_rooms: usize,
    /// What emojis are called.
    pub emojis: EmojiNames,
    /// Whose pages may send.
    pub allow_origin: AllowOrigin,
    /// Verifies the tokens of senders.
    pub authenticator: Authenticator,
    /// How much a user may send; `None` for all it wants.
    pub per_user: Option<RateLimit>,
    /// How much an address may send, of IPv6 a network of 64 bits.
    pub per_address: Option<RateLimit>,
    /// Who is believed whose address a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// Tells the time of receipt: the log's clock where the log is in this process.
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
    /// What is allowed to requests' bodies.
    pub(crate) fn bodies(&self) -> BodyLimits {
        BodyLimits {
            body_bytes: MAX_BODY_BYTES,
            time: self.body_time,
            together_bytes: self.bodies_bytes,
        }
    }
}
