//! Tokens: the keys that verify them, and what a request with a token may access.

mod authenticator;
mod token_key;

pub use authenticator::{Authenticator, Principal, bearer};
pub use token_key::InvalidKey;
