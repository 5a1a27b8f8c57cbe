//! EmoStream's HTTP library: the parts that all HTTP services share, without their endpoints.
//!
//! ```text
//!             ┌───────────── serve ─────────────┐
//!  accept ──▶ │ Limits ▶ TLS ▶ hyper ▶ Router ──┼─▶ Response     bytes, a stream,
//!             └─────── CancellationToken ───────┘              or the socket itself ([`takeover()`])
//! ```
//!
//! A service is an axum `Router`; the routers of two services on one address are merged. [`listen()`] binds an address,
//! and [`serve()`] serves it until its `CancellationToken` is cancelled, over TLS if the [`Listener`] has a
//! certificate. Errors are RFC 9457 problems ([`Problem`]). [`AllowOrigin`] decides which other origins may use a
//! service, an [`Authenticator`] verifies tokens with the keys of a file or of an identity provider, and [`Admin`]
//! serves health, readiness and metrics. [`serve_unix()`] serves a router to processes of this host.
//!
//! Layers: server → middleware → {admin, client} → message → net. A file imports downward only.
//!
//! Clients use HTTP/1.1, or HTTP/2 if they negotiate it by ALPN or begin with its connection preface.
//!
//! Invariants: every connection counts against one limit for as long as its socket is open, also after a takeover, and
//! so does each concurrent HTTP/2 request beyond its connection's first. Every wait for a client has a timeout. Bytes
//! that a client sends are never buffered beyond a named limit, and bytes that it only announces reserve no memory.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod admin;
mod client;
mod message;
mod middleware;
mod net;
mod server;

pub use admin::{Admin, Component, Readiness};
pub use axum::{body::Body, extract::Request, response::Response};
pub use client::{ClientStream, ClientTls, ClientTlsError, connect};
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
