//! EmoStream's HTTP rim: what every service that speaks HTTP shares, and nothing of what they say.
//!
//! ```text
//!             ┌───────────── serve ─────────────┐
//!  accept ──▶ │ Limits ▶ TLS ▶ hyper ▶ Router ──┼─▶ Response     bytes, a stream,
//!             └─────── CancellationToken ───────┘              or the socket itself ([`takeover()`])
//! ```
//!
//! A service is an axum `Router`; two of them on one address are merged. The caller takes
//! an address by [`listen()`], [`serve()`] serves it until its `CancellationToken` is cancelled, in TLS where the
//! [`Listener`] has one. Errors are RFC 9457 problems ([`Problem`]), browsers of other origins are let in
//! by [`AllowOrigin`], bearers of tokens by an [`Authenticator`] with the keys of a file or of an identity provider,
//! and [`Admin`] answers health, readiness and metrics. [`serve_unix()`] serves a router to processes of this host.
//!
//! Layers: server → middleware → {admin, client} → message → net. A file imports downward only.
//!
//! HTTP/1.1 is spoken, and HTTP/2 to those who agree on it in TLS or begin with it.
//!
//! Invariants: every connection counts against one limit for as long as its socket lives, whoever
//! has taken it over; of the requests that HTTP/2 carries at once, so does every one beside a connection's
//! first. No wait for a client is without an end. What a client sends is never buffered beyond a named
//! limit, and what it only announces takes no room.

mod admin;
mod client;
mod message;
mod middleware;
mod net;
mod server;

pub use admin::{Admin, Component, Readiness};
pub use axum::{body::Body, extract::Request, response::Response};
pub use client::{Trust, TrustError};
pub use message::{BodyError, BodyLimits, BodyReader, CollectedBody, Problem, takeover};
pub use middleware::{
    AllowOrigin, Authenticator, Coding, Effort, InvalidJwksUrl, InvalidKey, InvalidKeySet,
    InvalidNetwork, InvalidOrigin, JwksUrl, NotFound, Origin, Principal, RequiredClaims,
    TrustedProxies, bearer, compress_json,
};
pub use net::{
    DetachedConnection, Listener, NonBlockingStream, Tls, TlsError, TlsFile, TlsFiles, listen,
};
pub use server::{DrainOutcome, Limits, serve, serve_unix};
