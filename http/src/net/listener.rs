//! Taking an address, and how connections to it begin.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use crate::Tls;

/// The most connections that wait to be accepted; Linux allows 4096 unless told otherwise
/// (`net.core.somaxconn`).
///
/// A crowd connects at one moment: at a goal, or after a restart. Whoever finds the queue full tries again
/// after a second, so the usual 128 showed as answers that took that second.
const BACKLOG: u32 = 4096;

/// A listener at `address`. To be called in a tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart takes the address at once, though connections of the former process linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// An address that is taken, and whether TLS is spoken there.
#[derive(Debug)]
pub struct Listener {
    pub(crate) tcp: TcpListener,
    pub(crate) tls: Option<Tls>,
}

impl Listener {
    /// In TLS if there is one.
    pub fn new(tcp: TcpListener, tls: Option<Tls>) -> Self {
        Self { tcp, tls }
    }
}

impl From<TcpListener> for Listener {
    /// In the clear.
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None)
    }
}
