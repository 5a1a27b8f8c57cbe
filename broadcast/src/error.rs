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
    /// The thread that reads the log cannot start.
    #[error("the thread that reads the log cannot be started: {0}")]
    Thread(std::io::Error),
}
