//! Tests of the server and of client TLS over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[path = "server/client_tls.rs"]
mod client_tls;
#[path = "server/fixture.rs"]
mod fixture;
#[path = "server/http1.rs"]
mod http1;
#[path = "server/http2.rs"]
mod http2;
#[path = "server/identity.rs"]
mod identity;
#[path = "server/keep_alive.rs"]
mod keep_alive;
#[path = "server/tls.rs"]
mod tls;
