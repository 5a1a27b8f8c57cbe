//! Middleware of the services: CORS, tokens, the client's address behind proxies, compression, 404 for unknown paths.

pub(crate) mod auth;
mod compression;
mod cors;
mod forwarded_for;
mod not_found;

pub use auth::{
    Authenticator, InvalidJwksUrl, InvalidKey, InvalidKeySet, JwksUrl, Principal, RequiredClaims,
    bearer,
};
pub use compression::{Coding, Effort, compress_json};
pub use cors::{AllowOrigin, InvalidOrigin, Origin};
pub use forwarded_for::{InvalidNetwork, TrustedProxies};
pub use not_found::NotFound;
