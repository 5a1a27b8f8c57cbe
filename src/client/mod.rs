//! The other side of the services: what posts reactions and what subscribes to rooms.
//!
//! ```text
//!  Server (--url) ─┬─▶ Poster ──POST──▶ ingest        connections reused
//!                  └─▶ Subscription ◀── publisher     reconnects, resumes by the last final's id
//! ```

mod poster;
mod server;
mod sse;
mod subscription;

pub(crate) use poster::{Answer, Poster, reason};
pub(crate) use server::Server;
pub(crate) use subscription::{News, Subscription, Transport};
