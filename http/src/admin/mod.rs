//! What operators ask of a process: whether it lives, whether it is ready, its metrics.

mod endpoint;
mod readiness;

pub use endpoint::Admin;
pub use readiness::{Component, Readiness};
