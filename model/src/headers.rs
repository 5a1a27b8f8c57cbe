//! Names of record headers that several services write or read.

/// Header of every batch in the `reactions` topic: the ingest process that wrote it, as
/// `<host name>-<4 hexadecimal digits>`. Its clock dates the batch, so the dataflow can name a process whose
/// clock differs from the others'.
pub const INSTANCE_HEADER: &str = "instance";

/// Header of results (`windows`, `totals`): how often progress was reset to an earlier time before, as the text
/// of a decimal number. Absent for 0. Results are ordered by this number first and by their window second.
pub const RESETS_HEADER: &str = "resets";

/// Header of a final with which the totals of its room begin at 0: the room is new, or its previous final is older than
/// `--totals-retention`. The value is empty.
pub const TOTALS_BEGIN_HEADER: &str = "totals-begin";

/// Header of a record without a value (`totals`, `trending`), which removes what was kept of its key, a room: the start
/// of the window with whose close it was removed, Unix milliseconds, as the text of a decimal number. Finals of that
/// window or later ones are not concerned.
pub const REMOVED_HEADER: &str = "removed-before";
