//! Detects whether a client without ALPN uses HTTP/2 (with prior knowledge, RFC 9113, 3.3) or HTTP/1.

use std::io;

use tokio::io::AsyncReadExt;

use crate::net::tcp::ClientTcpStream;

/// The connection preface of HTTP/2 (RFC 9113, 3.4). No HTTP/1 request begins with it.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns whether a connection begins with the HTTP/2 preface. Reads until the bytes differ from the preface, or until
/// the preface is complete, which usually needs one read. Then puts the bytes back.
pub(crate) async fn begins_http2(tcp: &mut ClientTcpStream) -> io::Result<bool> {
    let mut begin = [0; PREFACE.len()];
    let mut bytes = 0;
    while bytes < begin.len() && PREFACE.starts_with(&begin[..bytes]) {
        match tcp.read(&mut begin[bytes..]).await? {
            0 => break,
            read => bytes += read,
        }
    }
    tcp.put_back(&begin[..bytes]);
    Ok(begin[..bytes] == *PREFACE)
}
