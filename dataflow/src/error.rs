//! Why a dataflow does not start, or ends by itself.

use emostream_log::LogError;

/// Why the dataflow ended; each says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DataflowError {
    /// The log was not usable at the start.
    #[error(transparent)]
    Start(LogError),
    /// The stored progress was made under other settings.
    #[error(
        "the stored progress in {topic} belongs to other settings: {difference}; run with the former settings, or start anew with another --topic-prefix (or --data directory)"
    )]
    OtherSettings {
        /// The progress topic.
        topic: String,
        /// What differs.
        difference: String,
    },
    /// The stored progress cannot be read.
    #[error(
        "the stored progress in {topic} is not readable ({detail}); a newer version may have written it"
    )]
    UnreadableProgress {
        /// The progress topic.
        topic: String,
        /// What is wrong.
        detail: String,
    },
    /// Records that are still needed are gone.
    #[error(
        "{topic}/{partition} must be read from offset {resume}, but the log holds {start} to {end}: reactions were deleted before they were counted; start anew with another --topic-prefix (or --data directory)"
    )]
    Gone {
        /// The reactions topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// R.
        resume: u64,
        /// The first offset kept.
        start: u64,
        /// The next offset.
        end: u64,
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
            | DataflowError::Gone { .. } => 78,
            DataflowError::Worker(_) => 70,
        }
    }
}
