//! A client's socket after a takeover: the new owner uses it outside of the tokio runtime, and no call blocks.
//!
//! ```text
//!  hyper ── response's head ──▶ DetachedConnection ──▶ NonBlockingStream: read, write, flush, finish ──▶ TCP
//!                                                          └─ TLS (rustls), if the client uses it
//! ```
//!
//! Invariants: the socket counts against the listener's limit of connections until it is dropped. With TLS, a write is
//! accepted only when all TLS records of the previous write are sent. So at most the TLS records of one write are
//! buffered here.

use std::{
    fmt,
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::rustls::ServerConnection;

/// Maximum number of TLS records that one read processes. Without this limit, a client that sends many records without
/// data would keep the thread busy.
const MAX_RECORDS_PER_READ: usize = 16;

/// A client's socket that is used without a tokio runtime. It counts against the listener's limit of connections until
/// it is dropped.
pub struct NonBlockingStream {
    stream: TcpStream,
    /// The TLS state, if the client uses TLS. It is boxed, since it is large and most sockets have none.
    tls: Option<Box<ServerConnection>>,
    _permit: OwnedSemaphorePermit,
}

/// The argument of a takeover callback: the socket, the head of the response, which the callback has to write, and the
/// bytes that were already read from the socket.
#[derive(Debug)]
pub struct DetachedConnection {
    /// The socket.
    pub stream: NonBlockingStream,
    /// The response's head, which is not written yet.
    pub head: Bytes,
    /// Bytes that the client has sent after the request and that were already read from the socket.
    pub read_ahead: Bytes,
}

impl NonBlockingStream {
    pub(crate) fn new(
        stream: TcpStream,
        tls: Option<ServerConnection>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            _permit: permit,
        }
    }

    /// Reads available bytes. Returns 0 at the end of the client's data. The error [`ErrorKind::WouldBlock`] means that
    /// no bytes are available. [`ErrorKind::Interrupted`] means that more bytes may be available, but that other
    /// connections should be served first.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(bytes);
        };
        for _ in 0..MAX_RECORDS_PER_READ {
            match tls.reader().read(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            // TLS itself may have to send records, such as an alert. If the socket does not accept them now, they are
            // sent before the next write, so the error is ignored.
            let _ = write_records(tls, &mut self.stream);
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
        Err(ErrorKind::Interrupted.into())
    }

    /// Writes as many bytes as possible without blocking. Returns the number of accepted bytes, or the error
    /// [`ErrorKind::WouldBlock`] if none were accepted.
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return match pieces {
                [one] => self.stream.write(one),
                several => self.stream.write_vectored(several),
            };
        };
        write_records(tls, &mut self.stream)?;
        let accepted = tls.writer().write_vectored(pieces)?;
        match write_records(tls, &mut self.stream) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(accepted),
        }
    }

    /// Sends the buffered TLS records of the last write.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => write_records(tls, &mut self.stream),
            None => Ok(()),
        }
    }

    /// Returns whether all accepted bytes have been written to the kernel's socket buffer.
    pub fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Closes the sending side. Bytes that the client sends can still be read.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The error is ignored. If the close_notify cannot be sent because the client does not read, TCP's FIN
            // still ends the stream.
            let _ = write_records(tls, &mut self.stream);
        }
        self.stream.shutdown(Shutdown::Write)
    }
}

fn write_records(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(stream)?;
    }
    Ok(())
}

impl AsFd for NonBlockingStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for NonBlockingStream {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl fmt::Debug for NonBlockingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonBlockingStream")
            .field("stream", &self.stream)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}
