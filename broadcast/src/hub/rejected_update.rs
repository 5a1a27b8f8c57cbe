//! Why an update is not applied.

use emostream_model::Room;

/// News that cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// They are of a log made anew, or of another one.
    #[error(
        "the results of room {room} are of another log than those before; starting again takes them"
    )]
    OtherLog {
        /// The first that showed it.
        room: Room,
    },
    /// The offsets of a partition are those of another log.
    #[error(
        "the results of partition {partition} are of another log than those before; starting again \
         takes them"
    )]
    OtherPartition {
        /// Which.
        partition: u32,
    },
    /// A room's snapshot is none.
    #[error("what it tells of room {room} is no room")]
    NoRoom {
        /// Which.
        room: Room,
    },
}

impl Unfit {
    /// Whether nothing that follows can be right, either.
    pub(crate) fn is_of_another_log(&self) -> bool {
        !matches!(self, Self::NoRoom { .. })
    }
}
