//! Limits for valid reactions: the rate of each user and address, and the number of rooms.

pub(crate) mod rate_limiter;
pub(crate) mod room_limit;
pub(crate) mod token_bucket;
