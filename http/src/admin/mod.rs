//! The endpoints for operators: liveness, readiness and metrics.

mod endpoint;
mod readiness;

pub use endpoint::Admin;
pub use readiness::{Component, Readiness};
