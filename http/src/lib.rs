//! EmoStream's HTTP rim: what every service that speaks HTTP shares, and nothing of what they say.
//!
//! ```text
//!             ┌───────────── serve ─────────────┐
//!  accept ──▶ │ Limits ▶ TLS ▶ hyper ▶ Handler ─┼─▶ Response<Body>     bytes, a stream,
//!             └─────── CancellationToken ───────┘                      or the socket itself ([`Line`])
//! ```
//!
//! A service is a [`Handler`]; two of them on one address are the tuple of both. The caller takes
//! an address by [`listen()`], [`serve()`] serves it until its `CancellationToken` is cancelled, in TLS where the
//! [`Listener`] has one. Errors are RFC 9457 problems ([`Problem`]), browsers of other origins are let in
//! by [`AllowOrigin`], bearers of tokens by an [`Authenticator`] with the keys of a file or of an identity provider,
//! and [`Admin`] answers health, readiness and metrics. [`serve_unix()`] serves a handler to processes of this host.
//!
//! HTTP/1.1 is spoken, and HTTP/2 to those who agree on it in TLS or begin with it.
//!
//! Invariants: every connection counts against one limit for as long as its socket lives, whoever
//! has taken it over; of the requests that HTTP/2 carries at once, so does every one beside a connection's
//! first. No wait for a client is without an end. What a client sends is never buffered beyond a named
//! limit, and what it only announces takes no room.

mod admin;
mod auth;
mod body;
mod connection;
mod cors;
mod forwarded;
mod handler;
mod http1;
mod http2;
mod limits;
mod line;
mod listen;
mod nowhere;
mod pace;
mod preface;
mod problem;
mod readiness;
mod receive;
mod serve;
mod socket;
mod streams;
mod timer;
mod tls;
mod trust;
mod unix;
mod wire;

pub use admin::Admin;
pub use auth::{
    Authenticator, InvalidJwksUrl, InvalidKey, InvalidKeySet, JwksUrl, Principal, RequiredClaims,
    bearer,
};
pub use body::{Body, BodySender, Closed};
pub use cors::{AllowOrigin, InvalidOrigin, Origin};
pub use forwarded::{InvalidNetwork, TrustedProxies};
pub use handler::{Handler, Request, Response};
pub use limits::Limits;
pub use line::{Line, Taken};
pub use listen::{Listener, listen};
pub use nowhere::Nowhere;
pub use problem::Problem;
pub use readiness::{Component, Readiness};
pub use receive::{Bodies, BodyError, BodyLimits, Received};
pub use serve::{Drained, serve};
pub use tls::{Tls, TlsError, TlsFile, TlsFiles};
pub use trust::{Trust, TrustError};
pub use unix::serve_unix;
