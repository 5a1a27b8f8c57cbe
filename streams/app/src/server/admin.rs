//! The server for the admin address of a process.

use std::{net::SocketAddr, time::Duration};

use emostream_http::{Limits, Listener, Tls, serve};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    bind::{address, bind, scheme},
    observability::Observability,
};
use crate::process::Failure;

/// Maximum connections of the admin address. This number is enough, since requests to this address are short and rare.
const ADMIN_CONNECTIONS: u32 = 64;
const ADMIN_DRAIN: Duration = Duration::from_millis(200);

/// The server for the admin address of a process. It serves until all connections to the other addresses of the process
/// have ended.
pub struct AdminServer {
    shutdown: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds the address and serves it. Does nothing for `--admin off`.
    pub async fn start(
        admin: Option<SocketAddr>,
        tls: Option<Tls>,
        observability: &Observability,
    ) -> Result<Self, Failure> {
        let shutdown = CancellationToken::new();
        let Some(admin) = admin else {
            return Ok(Self {
                shutdown,
                serving: None,
            });
        };
        let listener = bind("--admin", admin)?;
        tracing::info!("admin on {}://{}", scheme(&tls), address(&listener)?);
        let listener = Listener::new(listener, tls);
        let router = observability.admin().router();
        let limits = Limits {
            connections: ADMIN_CONNECTIONS,
            drain: ADMIN_DRAIN,
            ..Limits::default()
        };
        let stopping = shutdown.clone();
        let serving = tokio::spawn(async move {
            serve(listener, router, limits, stopping).await;
        });
        Ok(Self {
            shutdown,
            serving: Some(serving),
        })
    }

    /// Stops serving, and waits for requests in flight.
    pub async fn stop(self) {
        self.shutdown.cancel();
        if let Some(serving) = self.serving {
            // The result is ignored: the task returns no error, and a panic would have ended the process.
            let _ = serving.await;
        }
    }
}
