//! Fan-out: threads that write frames to the subscribers' sockets.

mod connection;
pub(crate) mod deliveries;
pub(crate) mod goaway;
pub(crate) mod inbound;
mod mailbox;
pub(crate) mod new_connection;
mod shard;
pub(crate) mod shard_pool;
mod write_batch;
