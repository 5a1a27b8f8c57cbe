//! Errors because of which a publisher or a relay does not start, or ends.

use emostream_log::LogError;

/// The reason why a publisher or a relay did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// An operation of the log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The registry already contains the metrics of another publisher.
    #[error("the publisher's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The relay could connect to none of its upstreams when it started.
    #[error(
        "this relay could connect to no upstream ({0}); check --upstream, and that each upstream has a --relay-listen"
    )]
    NoUpstream(String),
    /// An update is from another log than the earlier updates, for example because the log was recreated.
    #[error("{0}")]
    OtherLog(String),
    /// A thread that reads the log or writes to subscribers cannot be started.
    #[error(
        "the publisher's threads cannot be started: {0}; raise the limits on processes and open files (ulimit -u, -n)"
    )]
    Thread(std::io::Error),
}
