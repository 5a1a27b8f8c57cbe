//! The exit codes of the program, and the error type of its commands: an exit code, and the message that the program
//! prints as its last line.

use std::process::ExitCode;

use emostream_log::LogError;
use emostream_streams::StreamsError;

/// The exit codes, which are documented in docs/reference/exit-codes.md. Numbers from 64 are those of sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// A command that checks something found a difference.
    Mismatch = 1,
    /// The configuration is invalid.
    Usage = 64,
    /// Kafka or a server is not reachable when the command starts.
    Unavailable = 69,
    /// The program has a defect.
    Defect = 70,
    /// The process ended for a reason that a restart may fix.
    Restart = 75,
    /// The settings differ from those in the stored progress, or do not suit the topics, or a permission is missing.
    OtherSettings = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The error of a command: its exit code and the message that is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The message.
    pub message: String,
}

impl Failure {
    /// Returns the failure with this exit code and message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit, message }
    }

    /// Returns the failure for an invalid configuration. `flag` is the flag that the user should change.
    pub fn usage(flag: &str, why: impl std::fmt::Display) -> Self {
        Self::new(Exit::Usage, format!("{flag}: {why}"))
    }

    /// Returns the failure for an unavailable dependency, for example Kafka or a server.
    pub fn unavailable(why: impl std::fmt::Display) -> Self {
        Self::new(Exit::Unavailable, why.to_string())
    }
}

/// Converts an error of an application or of a reset.
impl From<StreamsError> for Failure {
    fn from(error: StreamsError) -> Self {
        let exit = match error.exit_code() {
            64 => Exit::Usage,
            69 => Exit::Unavailable,
            75 => Exit::Restart,
            78 => Exit::OtherSettings,
            _ => Exit::Defect,
        };
        Self::new(exit, error.to_string())
    }
}

/// Converts an error of the log that occurs while a command starts.
impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let message = error.to_string();
        match error {
            LogError::InUse { .. } | LogError::Disk { .. } => Self::usage("--data", message),
            LogError::Property { .. } => Self::new(Exit::Usage, message),
            LogError::Denied { repeated: true, .. } => Self::new(Exit::OtherSettings, message),
            LogError::Fenced { .. } | LogError::Aborted { .. } => Self::new(Exit::Restart, message),
            _ => Self::new(Exit::Unavailable, message),
        }
    }
}
