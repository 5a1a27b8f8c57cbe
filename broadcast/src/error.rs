//! Why a publisher does not start.

use emostream_log::LogError;

/// Why a publisher did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The log is not there.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The registry holds a publisher already.
    #[error("the publisher's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A thread that reads the log, or writes to subscribers, cannot start.
    #[error(
        "the publisher's threads cannot be started: {0}; allow the process more (ulimit -u, -n)"
    )]
    Thread(std::io::Error),
}
