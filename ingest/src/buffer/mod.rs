//! Accepted reactions that wait for the next flush, packed, and the clock that dates them.

pub(crate) mod clock;
pub(crate) mod packed;
mod queue;

pub(crate) use queue::{Buffer, Cargo, Closed, Parcel, Reservation, Stored};
