//! Accepted reactions that wait for the next flush, in packed form, and the clock of their timestamps.

pub(crate) mod clock;
pub(crate) mod packed;
mod queue;

pub(crate) use queue::{
    AwaitedBatch, Buffer, Closed, Drained, EarlyFlush, PendingBatch, Reservation, StoredSender,
};
