//! EmoStream's HTTP library: the parts that all HTTP services share. The services themselves define the endpoints.
//!
//! ```text
//!             ┌───────────── serve ─────────────┐
//!  accept ──▶ │ Limits ▶ TLS ▶ hyper ▶ Router ──┼─▶ Response     bytes, a stream,
//!             └─────── CancellationToken ───────┘              or the socket itself ([`takeover()`])
//! ```
//!
//! A service is an axum `Router`. Two services on one address are served by one merged router. [`listen()`] binds an
//! address, and [`serve()`] serves it until its `CancellationToken` is cancelled, over TLS if the [`Listener`] has a
//! certificate. Errors are RFC 9457 problems ([`Problem`]). [`AllowOrigin`] decides which pages of other origins may
//! use a service, an [`Authenticator`] verifies tokens with the keys of a file or of an identity provider, and
//! [`Admin`] serves health, readiness and metrics. [`serve_unix()`] serves a router to processes of this host.
//!
//! Layers: server → middleware → {admin, client} → message → net. A file imports only from its own layer and from the
//! layers to its right.
//!
//! Clients use HTTP/1.1, or HTTP/2 if they negotiate it by ALPN or begin the connection with the preface of HTTP/2.
//!
//! Invariants: every connection counts against [`Limits::connections`] for as long as its socket is open, also after a
//! takeover. The first concurrent HTTP/2 request of each connection needs no permit. For all further ones there is a
//! second limit of the same size. Every wait for a client has a timeout. The bytes that are buffered for a client never
//! exceed a named limit, and a large `Content-Length` alone reserves no memory.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod admin;
mod client;
mod message;
mod middleware;
mod net;
mod server;
#[cfg(feature = "testing")]
pub mod testing;

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
