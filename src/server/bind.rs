//! Binding of addresses, with errors that name the flag.

use std::{io::ErrorKind, net::SocketAddr};

use emostream_http::{Tls, listen};
use tokio::net::TcpListener;

use crate::exit::Failure;

/// Binds an address; the error names the flag to change.
pub(super) fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    listen(address).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("{address} is in use; stop the process that listens on it, or choose another address")
            }
            _ => format!("cannot listen on {address}: {error}"),
        };
        Failure::usage(flag, why)
    })
}

/// Returns the address of a listener.
pub(super) fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(Failure::unavailable)
}

/// `https` with TLS, otherwise `http`.
pub(super) fn scheme(tls: &Option<Tls>) -> &'static str {
    match tls {
        Some(_) => "https",
        None => "http",
    }
}
