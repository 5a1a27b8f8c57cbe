//! Limits of a listener.

use std::time::Duration;

/// Limits of a listener. The defaults are for a service that is open to the internet without a proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum number of open sockets, detached ones included. Further connections get 503 and are closed; with TLS
    /// they are closed without a response. The same number limits the concurrent HTTP/2 requests beyond the first of
    /// each connection.
    ///
    /// `bench/README.md` lists the memory of an idle connection. TLS, the kernel and the bodies of requests need
    /// additional memory. The process needs one file descriptor for each connection (`ulimit -n`).
    pub connections: u32,
    /// Maximum number of new connections per second. All connections of one second may arrive at once. Further
    /// connections get 503 and are closed; with TLS they are closed without a response. The default is `None` (no
    /// limit), since even many clients that connect at once are accepted within seconds (`bench/README.md` lists the
    /// CPU time of a connection).
    pub connection_rate: Option<f64>,
    /// Timeout of a TLS handshake. It is several times longer than a phone on a slow network needs.
    pub handshake: Duration,
    /// Timeout for receiving the head of the next request, counted from the end of the previous response. If it passes,
    /// the connection is closed, because its client is slow or the connection is idle.
    ///
    /// The timeout is longer than the usual pauses between two taps of a user, so that a tap usually does not need a
    /// new connection.
    pub head: Duration,
    /// Maximum time that a write waits for a client that does not read. It is shorter than TCP's own timeout for an
    /// unreachable host, which is a quarter of an hour.
    pub write_timeout: Duration,
    /// Maximum bytes of a request's head. The limit leaves room for cookies of other services on the same host name.
    pub head_bytes: usize,
    /// Maximum time that a shutdown waits for requests in flight. It is shorter than the 10 s that an orchestrator
    /// gives a process to end, and longer than a request waits for the log (8 s).
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connection_rate: None,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            head_bytes: 16 << 10,
            drain: Duration::from_millis(8_500),
        }
    }
}
