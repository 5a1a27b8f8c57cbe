//! Binds addresses.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::Tls;

/// Maximum connections that wait to be accepted; Linux allows 4096 by default (`net.core.somaxconn`).
///
/// Many clients connect at one moment: at a goal, or after a restart. A client that finds the queue full retries after
/// a second, so with the usual 128 some response times were above a second.
const BACKLOG: u32 = 4096;

/// Binds a listener to `address`. It must be called in a tokio runtime.
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
