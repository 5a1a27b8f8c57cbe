//! The client side of TLS.

mod tls;

pub use tls::{Trust, TrustError};
