//! Serves a [`Router`] on a Unix socket to processes of this host.
//!
//! The file permissions of the socket decide which users may connect, so TLS and tokens are not used. Each connection
//! carries one request, so a single timeout limits every wait for a client.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    Limits,
    server::{accept::pause_after, respond::Responder},
};

/// Maximum number of concurrent connections. Only commands that people and scripts run connect here, so few are enough.
/// Further connections wait in the kernel's accept queue.
const CONNECTIONS: usize = 64;

/// Maximum duration of a connection. Without this limit, a client that sends no request, or does not read the response,
/// would keep a connection open forever.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// The client address that handlers see. A Unix socket has no IP address, and its clients are processes of this host,
/// so the address is that of localhost.
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Serves `listener` until the future is dropped, which also closes the connections.
pub async fn serve_unix(listener: UnixListener, router: Router) {
    let responder = Arc::new(Responder::new(router));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(exchange(stream, responder.clone()))),
                Err(error) => pause_after(&error).await,
            },
        }
    }
}

/// Reads one request and writes its response.
async fn exchange(stream: UnixStream, responder: Arc<Responder>) {
    let respond = |request| async { Ok::<_, Infallible>(responder.respond(request, PEER).await) };
    let mut http = http1::Builder::new();
    http.keep_alive(false)
        .header_read_timeout(None)
        .max_buf_size(Limits::default().head_bytes);
    let served = http.serve_connection(TokioIo::new(stream), service_fn(respond));
    match timeout(EXCHANGE_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection of the Unix socket ended unexpectedly")
        }
        Err(_) => tracing::debug!("a connection of the Unix socket took too long"),
    }
}
