//! Connections to servers.

mod stream;
mod tls;

pub use stream::{ClientStream, connect};
pub use tls::{ClientTls, ClientTlsError};
