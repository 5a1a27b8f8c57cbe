//! A client's socket after a takeover: its new owner drives it without a runtime, and no call blocks.
//!
//! ```text
//!  hyper ── response's head ──▶ DetachedConnection ──▶ NonBlockingStream: read, write, flush, finish ──▶ TCP
//!                                                          └─ TLS (rustls), if the client uses it
//! ```
//!
//! Invariants: it counts against the listener's limit of connections until it is dropped; in TLS a write is
//! only taken once the one before is out, so at most one write's records wait here.

use std::{
    fmt,
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::rustls::ServerConnection;

/// TLS records looked at in one read. A client may send any number that hold nothing to read.
const RECORDS: usize = 16;

/// A client's socket without a runtime. It counts against the listener's limit of connections until it is dropped.
pub struct NonBlockingStream {
    stream: TcpStream,
    /// Apart, since it is large and most lines have none.
    tls: Option<Box<ServerConnection>>,
    _place: OwnedSemaphorePermit,
}

/// The argument of a takeover: the socket, and the bytes that belong before and after the response.
#[derive(Debug)]
pub struct DetachedConnection {
    /// The socket.
    pub stream: NonBlockingStream,
    /// The response's head, which is not written yet.
    pub head: Bytes,
    /// Bytes that were read after the end of the request.
    pub read_ahead: Bytes,
}

impl NonBlockingStream {
    pub(crate) fn new(
        stream: TcpStream,
        tls: Option<ServerConnection>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            tls: tls.map(Box::new),
            _place: place,
        }
    }

    /// Reads what there is. 0: the client sends no more. [`ErrorKind::WouldBlock`]: nothing now;
    /// [`ErrorKind::Interrupted`]: there may be more, but others have their turn first.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.stream.read(bytes);
        };
        for _ in 0..RECORDS {
            match tls.reader().read(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            // What TLS answers by itself, an alert too. What does not go now goes before the next write.
            let _ = records(tls, &mut self.stream);
            processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        }
        Err(ErrorKind::Interrupted.into())
    }

    /// Writes as much as goes now; how many bytes were taken. [`ErrorKind::WouldBlock`]: none.
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return match pieces {
                [one] => self.stream.write(one),
                several => self.stream.write_vectored(several),
            };
        };
        records(tls, &mut self.stream)?;
        let taken = tls.writer().write_vectored(pieces)?;
        match records(tls, &mut self.stream) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what TLS still holds of the last write.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => records(tls, &mut self.stream),
            None => Ok(()),
        }
    }

    /// Whether all that was taken has gone to the kernel.
    pub fn is_flushed(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.wants_write())
    }

    /// Says that nothing more comes. The client may still be read from.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // A client that has stopped reading learns it from TCP.
            let _ = records(tls, &mut self.stream);
        }
        self.stream.shutdown(Shutdown::Write)
    }
}

fn records(tls: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
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
