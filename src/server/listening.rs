//! The addresses of a role, from the flags to the end of the last connection.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use axum::Router;
use emostream_http::{
    AllowOrigin, Authenticator, DrainOutcome, Limits, Listener, NotFound, Tls, listen, serve,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{admin::AdminServer, drain::Drain, watch::Watch};
use crate::{
    cli::flags::{ListenFlags, ServerFlags},
    exit::Failure,
    logging::{LogFormat, json_line},
    output,
    signal::Signals,
};

/// The server configuration of a role: all files are read, no address is bound.
pub(crate) struct ServerConfig {
    listen: ListenFlags,
    admin: Option<SocketAddr>,
    pub(super) tls: Option<Tls>,
    pub(crate) allow_origin: AllowOrigin,
    pub(crate) authenticator: Authenticator,
}

/// The addresses of a role. They are bound before anything starts, so that a second process on one host ends at once.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    pub(super) tls: Option<Tls>,
    limits: Limits,
    not_found: NotFound,
    admin: AdminServer,
}

/// A role that serves its clients.
pub(crate) struct Serving {
    shutdown: CancellationToken,
    connections: JoinHandle<DrainOutcome>,
    admin: AdminServer,
}

impl ServerConfig {
    /// Reads the files that the flags name.
    pub(crate) fn read(flags: &ServerFlags) -> Result<Self, Failure> {
        Ok(Self {
            tls: flags.listen.tls()?,
            allow_origin: flags.origin.allowed(),
            authenticator: flags.tokens.authenticator()?,
            listen: flags.listen.clone(),
            admin: flags.admin.address(),
        })
    }

    /// Binds the addresses, and serves the admin address from now on. Call it in a tokio runtime.
    pub(crate) async fn bind(self, max_relays: u32, watch: &Watch) -> Result<Bound, Failure> {
        watch.follow_keys(&self.authenticator)?;
        let listener = bind("--listen", self.listen.address())?;
        let address = address(&listener)?;
        let limits = self.listen.limits(max_relays);
        follow(&self.tls);
        let admin = AdminServer::start(self.admin, self.tls.clone(), watch).await?;
        Ok(Bound {
            listener,
            address,
            tls: self.tls,
            limits,
            not_found: NotFound::new(self.allow_origin),
            admin,
        })
    }
}

impl Bound {
    /// `https` with TLS, otherwise `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        scheme(&self.tls)
    }

    /// Serves `router`. From now on a signal drains the process and does not end it.
    pub(crate) fn serve(self, router: Router, signals: &Signals) -> Serving {
        let shutdown = CancellationToken::new();
        signals.take_over();
        let connections = tokio::spawn(serve(
            Listener::new(self.listener, self.tls),
            self.not_found.after(router),
            self.limits,
            shutdown.clone(),
        ));
        Serving {
            shutdown,
            connections,
            admin: self.admin,
        }
    }
}

impl Serving {
    /// Serves until a signal asks the process to end, or `failed` returns; then no connection is accepted any more.
    /// Returns how it ended, and the time that is left for the rest.
    pub(crate) async fn until_ended(
        &self,
        signals: &mut Signals,
        failed: impl Future<Output = Failure>,
    ) -> (Result<(), Failure>, Drain) {
        let ended = tokio::select! {
            failure = failed => Err(failure),
            signal = signals.next() => {
                tracing::info!("{signal}: draining");
                Ok(())
            }
        };
        let drain = Drain::begin();
        self.shutdown.cancel();
        (ended, drain)
    }

    /// Waits until all connections have ended, at most until the drain's deadline. The admin address is still served.
    pub(crate) async fn drained(self, drain: &Drain) -> AdminServer {
        drain.wait_for(self.connections).await;
        self.admin
    }
}

/// How often the files of a certificate are read; a new pair is used after it was read twice. Certificates are replaced
/// weeks before they expire.
const TLS_LOOK: Duration = Duration::from_secs(2);

/// Binds an address; the error names the flag to change.
pub(super) fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    listen(address).map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("{address} is in use; stop what listens there, or choose another")
            }
            _ => format!("{address} cannot be listened on: {error}"),
        };
        Failure::usage(flag, why)
    })
}

/// Returns the address of a listener.
pub(super) fn address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(Failure::unavailable)
}

/// `https` with TLS, otherwise `http`.
pub(super) fn scheme(tls: &Option<Tls>) -> &'static str {
    match tls {
        Some(_) => "https",
        None => "http",
    }
}

/// Starts a task that reloads the certificate when its files change. Call it in a tokio runtime.
fn follow(tls: &Option<Tls>) {
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.follow(TLS_LOOK).await });
    }
}

/// Prints where the process is reached: `text` for people, a line of JSON for machines.
pub(crate) fn announce(format: LogFormat, text: &str, url: &str) -> Result<(), Failure> {
    let line = match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => json_line("INFO", "serving", json!({ "url": url })) + "\n",
    };
    // A server whose standard output is closed continues to serve.
    output::quietly(output::print(&line))
}
