//! Why a publisher or a relay does not start, or ends.

use emostream_log::LogError;

/// Why a publisher or a relay did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The registry has metrics of a publisher already.
    #[error("the publisher's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// No upstream was found at the start.
    #[error(
        "no upstream feeds this relay ({0}); check --upstream, and that each has a --relay-listen"
    )]
    NoUpstream(String),
    /// An update is from another log than the updates before it.
    #[error("{0}")]
    OtherLog(String),
    /// A thread that reads the log, or writes to subscribers, cannot start.
    #[error(
        "the publisher's threads cannot be started: {0}; allow the process more (ulimit -u, -n)"
    )]
    Thread(std::io::Error),
}
