//! Updates that are not applied.

use emostream_model::Room;

/// Why an update is not applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RejectedUpdate {
    /// It is from another log than the updates before it: the log was recreated, or the upstream reads another one.
    #[error(
        "the results of room {room} are of another log than those before; starting again takes them"
    )]
    OtherLog {
        /// The room whose results show it.
        room: Room,
    },
    /// The same, as the offsets of a partition show it.
    #[error(
        "the results of partition {partition} are of another log than those before; starting again \
         takes them"
    )]
    OtherPartition {
        /// The partition.
        partition: u32,
    },
    /// The snapshot of a room cannot be parsed.
    #[error("what it tells of room {room} is no room")]
    InvalidSnapshot {
        /// The room.
        room: Room,
    },
}

impl RejectedUpdate {
    /// Whether all further updates would be rejected, too, so that the process has to start again.
    pub(crate) fn is_log_mismatch(&self) -> bool {
        !matches!(self, Self::InvalidSnapshot { .. })
    }
}
