//! Updates that are not applied.

use emostream_model::Room;

/// The reason why an update is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RejectedUpdate {
    /// The update is from another log than the earlier ones: the log was recreated, or the upstream reads another log.
    /// The text names the room or the partition whose results show this.
    #[error(
        "the results of {0} are from another log than the results before; the process has to be restarted to accept them"
    )]
    OtherLog(String),
    /// The snapshot of a room cannot be parsed.
    #[error("the snapshot of room {0} is invalid")]
    InvalidSnapshot(Room),
}

impl RejectedUpdate {
    /// Returns whether all further updates would be rejected, too, so that the process has to be restarted.
    pub(crate) fn is_log_mismatch(&self) -> bool {
        matches!(self, Self::OtherLog(_))
    }
}
