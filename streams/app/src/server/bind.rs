//! Binds addresses. An error names the flag that the user should change.

use std::{io::ErrorKind, net::SocketAddr};

use emostream_http::{Tls, listen};
use tokio::net::TcpListener;

use crate::process::Failure;

/// Binds an address. The error names `flag`, which the user should change.
pub fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
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
pub fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(Failure::unavailable)
}

/// Returns the scheme of URLs: `https` with TLS, otherwise `http`.
pub fn scheme(tls: &Option<Tls>) -> &'static str {
    match tls {
        Some(_) => "https",
        None => "http",
    }
}
