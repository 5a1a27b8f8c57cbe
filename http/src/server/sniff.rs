//! Telling HTTP/2 by prior knowledge from HTTP/1, where no handshake has agreed on either.

use std::io;

use tokio::io::AsyncReadExt;

use crate::net::tcp::ClientTcpStream;

/// What a client of HTTP/2 begins with (RFC 9113, 3.4): no request of HTTP/1 could.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until the first bytes differ from the preface or are the whole of it, which takes one read of
/// nearly all clients, and gives them back.
pub(crate) async fn begins_http2(wire: &mut ClientTcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    let mut bytes = 0;
    while bytes < begin.len() && PREFACE.starts_with(&begin[..bytes]) {
        match wire.read(&mut begin[bytes..]).await? {
            0 => break,
            read => bytes += read,
        }
    }
    wire.give_back(&begin[..bytes]);
    Ok(begin[..bytes] == *PREFACE)
}
