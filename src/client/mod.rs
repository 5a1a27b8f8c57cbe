//! The other side of the services: what posts reactions and what subscribes to rooms.
//!
//! ```text
//!  Server (--url) ─▶ Endpoint ─┬─▶ Connections ──POST──▶ ingest             connections reused
//!    in TLS or in the clear,   └─▶ Subscription ◀── publisher               reconnects, resumes by the
//!    with a token or without                                                last final's id
//! ```

mod connections;
mod endpoint;
pub(crate) mod problem;
mod server;
mod sse;
mod subscription;
mod token;

pub(crate) use connections::{Answer, Connections, Opened, Question};
pub(crate) use endpoint::{AccessFlags, Endpoint};
pub(crate) use server::Server;
pub(crate) use subscription::{News, Subscription, Transport};
pub(crate) use token::Token;

/// The innermost cause, which is the one that says something.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().unwrap_or(error).to_string()
}
