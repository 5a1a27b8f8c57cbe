//! Limits of a listener.

use std::time::Duration;

/// Limits of a listener. The defaults suit a service that is open to the internet without a proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum open sockets, detached ones included. One more gets 503 and is closed; with TLS it is only closed.
    /// HTTP/2 may carry as many requests again, beyond the first of each connection.
    ///
    /// `bench/README.md` has the memory of an idle connection; TLS, the kernel and the body of a request add to it. The
    /// process needs as many file descriptors (`ulimit -n`).
    pub connections: u32,
    /// Maximum new connections per second; more get 503 and are closed, with TLS they are only closed. The burst is one
    /// second's worth. `None` for no limit: ten thousand clients that connect at once are accepted within seconds
    /// (`bench/README.md` has the CPU time of a connection).
    pub connection_rate: Option<f64>,
    /// Timeout of a TLS handshake: several times what a phone on a slow network needs.
    pub handshake: Duration,
    /// Timeout of the head of the next request, from the end of the previous response: it closes slow clients and idle
    /// connections.
    ///
    /// Longer than the pauses of a tapping user, so that a tap does not pay for a new connection.
    pub head: Duration,
    /// Timeout of a client that does not read a response. Shorter than TCP's own timeout for an unreachable host (a
    /// quarter of an hour).
    pub write_timeout: Duration,
    /// Maximum bytes of a request's head. It may contain cookies of other services on the same host name.
    pub head_bytes: usize,
    /// Timeout of requests in flight after shutdown is requested. Within the 10 s that an orchestrator gives a process,
    /// and longer than a request waits for the log (8 s).
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
