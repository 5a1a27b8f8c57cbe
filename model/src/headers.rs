//! Names of record headers that several services write or read.

/// Header of every batch in the `reactions` topic: the ingest process that wrote it, as
/// `<host name>-<4 hexadecimal digits>`. Its clock dates the batch, so the dataflow can name a process whose
/// clock differs from the others'.
pub const INSTANCE_HEADER: &str = "instance";

/// Header of results (`windows`, `totals`): how often progress was reset to an earlier time before, as the text
/// of a decimal number. Absent for 0. Results are ordered by this number first and by their window second.
pub const RESETS_HEADER: &str = "resets";
