//! What a listener allows its clients.

use std::time::Duration;

/// The limits of one listener. The defaults suit a service behind nothing, open to the world.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Maximum open sockets, detached ones included. One more gets 503 and is closed; with TLS it is only closed.
    /// HTTP/2 may carry as many requests again, beyond the first of each connection.
    ///
    /// `bench/README.md` has the memory of an idle connection; TLS, the kernel and the body of a request add to it. The
    /// process needs as many file descriptors (`ulimit -n`).
    pub connections: u32,
    /// The most new connections a second; more are told 503 and closed, in TLS only closed. A second's worth
    /// may come at once. `None` for no limit: ten thousand clients that connect at once are accepted
    /// within seconds (`bench/README.md` has the CPU time of a connection).
    pub connection_rate: Option<f64>,
    /// How long a TLS handshake may take: several times what a phone on a bad network needs.
    pub handshake: Duration,
    /// How long the head of the next request may take, counted from the end of the answer before it:
    /// it ends slow senders and bounds how long an idle connection is kept.
    ///
    /// Longer than the pauses of a tapping user, so that a tap does not pay for a new connection.
    pub head: Duration,
    /// How long a client may leave an answer standing without reading a byte of it. Shorter than TCP's
    /// own patience with a host that is gone (a quarter of an hour).
    pub unread: Duration,
    /// The most bytes of a request's head. Cookies of other services on the same name come along.
    pub head_bytes: usize,
    /// How long requests in flight may take to finish once shutdown is requested. Within the 10 s that
    /// an orchestrator gives a process, and longer than what a request waits for the log (8 s).
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connection_rate: None,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            unread: Duration::from_secs(30),
            head_bytes: 16 << 10,
            drain: Duration::from_millis(8_500),
        }
    }
}
