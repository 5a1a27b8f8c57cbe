//! Sockets: TCP with a permit of the connection limit and timeouts, TLS over it, and sockets detached from the runtime.

mod detached;
mod listener;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod tls;

pub use detached::{DetachedConnection, NonBlockingStream};
pub use listener::{Listener, listen};
pub use tls::{Tls, TlsError, TlsFile, TlsFiles};
