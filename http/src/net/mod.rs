//! Sockets: TCP with its permit and its timeouts, TLS on top of it, and how a socket leaves the runtime.

mod detached;
mod listener;
pub(crate) mod socket;
pub(crate) mod tcp;
pub(crate) mod tls;

pub use detached::{DetachedConnection, NonBlockingStream};
pub use listener::{Listener, listen};
pub use tls::{Tls, TlsError, TlsFile, TlsFiles};
