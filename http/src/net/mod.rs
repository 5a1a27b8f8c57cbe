//! Sockets: TCP streams, each with a permit of the connection limit and with timeouts; TLS over these streams; and
//! sockets that are detached from the tokio runtime.

mod detached;
mod listener;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod tls;

pub use detached::{DetachedConnection, NonBlockingStream};
pub use listener::{Listener, listen};
pub use tls::{Tls, TlsError, TlsFile, TlsFiles};
