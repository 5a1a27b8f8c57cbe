//! Why a dataflow does not start, or ends by itself.

use emostream_log::LogError;

use crate::fit::Misfit;

/// Why the dataflow ended; each says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DataflowError {
    /// The log was not usable at the start.
    #[error(transparent)]
    Start(LogError),
    /// The stored progress was made under other settings.
    #[error(
        "the stored progress in {topic} belongs to other settings: {difference}; run with the former settings, or let `emostream reset` forget them: what is final stays"
    )]
    OtherSettings {
        /// The progress topic.
        topic: String,
        /// What differs.
        difference: String,
    },
    /// The stored progress cannot be read.
    #[error(
        "the stored progress in {topic} is not readable ({detail}); run the version that wrote it, or start anew with another --topic-prefix (or --data directory)"
    )]
    UnreadableProgress {
        /// The progress topic.
        topic: String,
        /// What is wrong.
        detail: String,
    },
    /// The log does not hold what the progress was made from.
    #[error(
        "the stored progress does not fit the log: {misfit}; `emostream reset` goes on from what the log holds, and what is final stays"
    )]
    Misfit {
        /// The first that was found.
        misfit: Misfit,
    },
    /// The log failed while running.
    #[error("the dataflow stops and must be restarted: {0}")]
    Log(LogError),
    /// A worker ended by a defect.
    #[error("a worker ended by a defect: {0}")]
    Worker(String),
}

impl DataflowError {
    /// The exit code of a process that ends by this (INTERFACE, "Exit codes").
    pub fn exit_code(&self) -> u8 {
        match self {
            DataflowError::Start(LogError::Fenced { .. }) | DataflowError::Log(_) => 75,
            DataflowError::Start(_) => 69,
            DataflowError::OtherSettings { .. }
            | DataflowError::UnreadableProgress { .. }
            | DataflowError::Misfit { .. } => 78,
            DataflowError::Worker(_) => 70,
        }
    }
}
