//! The state of one room, as values: no locks, no IO, no clock.

pub(crate) mod cursor;
pub(crate) mod snapshot;
pub(crate) mod state;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod totals;
