//! Connections from accept to drain, over HTTP/1 and HTTP/2, on TCP and on a Unix socket.

mod accept;
mod connection;
mod http1;
mod http2;
mod limits;
mod rate_limiter;
mod respond;
mod sniff;
mod streams;
mod unix;

pub use accept::{DrainOutcome, serve};
pub use limits::Limits;
pub use unix::serve_unix;
