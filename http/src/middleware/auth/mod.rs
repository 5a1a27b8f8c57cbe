//! Tokens: the keys with which tokens are verified, and the rooms that a request with a token may access.
//!
//! ```text
//!  authenticator ─▶ key_file ────────────────────┬─▶ key_set ─▶ token_key ─▶ claims
//!             └───▶ remote_keys ─▶ jwks_client ──┘
//!                        └───────▶ refresh: when to fetch
//! ```

mod authenticator;
mod claims;
mod jwks_client;
mod jwks_url;
mod key_file;
mod key_set;
mod refresh;
mod remote_keys;
#[cfg(test)]
mod testing;
mod token_key;

pub use authenticator::{Authenticator, Principal, bearer};
pub use claims::RequiredClaims;
pub use jwks_url::{InvalidJwksUrl, JwksUrl};
pub use key_file::InvalidKey;
pub use key_set::InvalidKeySet;
