//! Bound addresses, with or without TLS.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::Tls;

/// Maximum number of connections in the kernel's accept queue. Linux allows 4096 by default (`net.core.somaxconn`).
///
/// Many clients may connect at the same moment, for example after a goal or a restart. If the queue is full, the TCP
/// stack of a client retries only after a second. With the usual length of 128, some responses took longer than a
/// second for this reason.
const BACKLOG: u32 = 4096;

/// Binds a listener to `address`. Call this function in a tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Allows a restarted process to bind at once, although connections of the previous process are still in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A bound address, with or without TLS.
#[derive(Debug)]
pub struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Option<Tls>,
}

impl Listener {
    /// Creates a listener; it uses TLS if `tls` is given.
    pub fn new(tcp: TcpListener, tls: Option<Tls>) -> Self {
        Self { tcp, tls }
    }
}

impl From<TcpListener> for Listener {
    /// Returns a listener without TLS.
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None)
    }
}
