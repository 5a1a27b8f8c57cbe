//! Requests and responses: bodies within limits, and errors as RFC 9457 problems.

mod collect;
pub(crate) mod not_found;
pub(crate) mod problem;
pub(crate) mod request_id;
pub(crate) mod takeover;

pub use collect::{BodyError, BodyLimits, BodyReader, CollectedBody};
pub use problem::Problem;
pub use takeover::takeover;
