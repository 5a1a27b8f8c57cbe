//! A data connection as timely uses it. If the connection ends unexpectedly, the run stops with an error that names the
//! lost process.
//!
//! Timely's network threads panic when a connection ends unexpectedly. This wrapper hides the end from them: the run
//! stops with an error, and the network thread waits until the workers have ended.

#![allow(clippy::disallowed_methods, reason = "waits for the end of a run")]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    panic,
    sync::Arc,
    thread,
    time::Duration,
};

use timely::communication::allocator::zero_copy::stream::Stream;

use crate::{Stop, StreamsError};

/// Interval at which a thread whose connection has ended checks whether the workers have ended.
const OVER_LOOK: Duration = Duration::from_millis(500);

/// A data connection to another process.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    name: Arc<str>,
    stop: Stop,
}

impl Peer {
    /// Wraps the connection to the process called `name`.
    pub fn new(stream: TcpStream, name: &str, stop: Stop) -> Peer {
        Peer {
            stream,
            name: name.into(),
            stop,
        }
    }

    /// Handles the end of the connection. The run fails with an error, unless a stop was requested: then the end is
    /// expected. The thread waits until the workers have ended, since they would panic if timely's network threads
    /// ended earlier.
    fn lost(&self, why: &str) -> ! {
        if !self.stop.is_requested() {
            self.stop.fail(StreamsError::PeerLost {
                peer: self.name.to_string(),
                why: why.to_owned(),
            });
        }
        while !self.stop.is_over() {
            thread::sleep(OVER_LOOK);
        }
        // Ends the thread without the message of a panic.
        panic::resume_unwind(Box::new(()));
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => self.lost("the connection to the process was closed"),
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lost(&error.to_string()),
            }
        }
    }
}

impl Write for Peer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.write(buffer) {
                Ok(bytes) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.lost(&error.to_string()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Peer {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Peer {
            stream: self.stream.try_clone()?,
            name: self.name.clone(),
            stop: self.stop.clone(),
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.stream.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // The shutdown fails if the other process has closed the connection already, which is expected at the end of a
        // run.
        let _ = self.stream.shutdown(how);
        Ok(())
    }
}
