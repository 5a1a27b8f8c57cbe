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

/// Header of a record without a value (a tombstone in `totals` or `trending`) that removes the room in its key: the
/// start of the window at whose close the room was removed, Unix milliseconds, as the text of a decimal number. Finals
/// of that window and of later ones are not removed.
pub const REMOVED_HEADER: &str = "removed-before";
