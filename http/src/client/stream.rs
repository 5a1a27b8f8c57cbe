//! A connection to a server, with or without TLS.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::ClientTls;

/// A connection to a server. The TLS stream is boxed, since its state is large.
pub type ClientStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Connects to `host` (a name, or an IP address without brackets). Uses TLS if `trust` is given.
///
/// Returns an error if the server is not reachable, or if `trust` does not trust its certificate. This function has no
/// timeout, so the caller has to set one.
pub async fn connect(host: &str, port: u16, trust: Option<&ClientTls>) -> io::Result<ClientStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(match trust {
        Some(trust) => Either::Right(Box::new(trust.connect(host, stream).await?)),
        None => Either::Left(stream),
    })
}
