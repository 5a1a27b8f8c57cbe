//! How much of what is valid is accepted: of each user and address, and how many rooms.

pub(crate) mod rate_limiter;
pub(crate) mod room_limit;
pub(crate) mod token_bucket;
