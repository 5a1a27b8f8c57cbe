//! HTTP clients of the services: requests (reactions), and subscriptions to rooms.
//!
//! ```text
//!  Server (--url) ─▶ Endpoint ─┬─▶ Connections ──POST──▶ ingest             connections reused
//!    with or without TLS,      └─▶ Subscription ◀── publisher               reconnects, resumes after
//!    with or without a token                                                the last final
//! ```

mod connections;
mod endpoint;
pub(crate) mod problem;
mod server;
mod sse;
mod subscription;
mod token;

pub(crate) use connections::{Answer, ApiRequest, Connections, Opened};
pub(crate) use endpoint::{AccessFlags, Endpoint};
pub(crate) use server::Server;
pub(crate) use subscription::{Subscription, SubscriptionEvent, Transport};
pub(crate) use token::Token;

/// Returns the text of the innermost cause of an error, because this cause is the most specific.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.last().unwrap_or(error).to_string()
}
