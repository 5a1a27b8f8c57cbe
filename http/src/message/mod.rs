//! Requests and responses: bodies within limits, and errors as RFC 9457 problems.

pub(crate) mod body;
mod collect;
pub(crate) mod problem;

pub use body::{Body, BodySender, Closed};
pub use collect::{Bodies, BodyError, BodyLimits, Received};
pub use problem::Problem;
