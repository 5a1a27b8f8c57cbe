//! The addresses of a role, from the flags to the end of the last connection.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use emostream_broadcast::{RelayPort, RelayToken};
use emostream_http::{
    AllowOrigin, Authenticator, DrainOutcome, Limits, Listener, NotFound, Tls, serve,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    admin::AdminServer,
    bind::{address, bind, scheme},
    drain::Drain,
    observability::Observability,
};
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
    tls: Option<Tls>,
    pub(crate) allow_origin: AllowOrigin,
    pub(crate) authenticator: Authenticator,
}

/// The address for relays; none by default.
#[derive(Default)]
pub(crate) struct RelayConfig {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) token: RelayToken,
    /// Maximum connected relays.
    pub(crate) max_relays: u32,
}

/// The addresses of a role. They are bound before anything starts, so that a second process on one host ends at once.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    /// Moved to the service that serves relays.
    pub(crate) relays: Option<RelayPort>,
    tls: Option<Tls>,
    limits: Limits,
    not_found: NotFound,
    admin: AdminServer,
    observability: Observability,
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
            allow_origin: flags.allow_origin.clone(),
            authenticator: flags.tokens.authenticator()?,
            listen: flags.listen.clone(),
            admin: flags.admin.address(),
        })
    }

    /// Binds all addresses; once they are bound, the admin address is served. Call it in a tokio runtime.
    pub(crate) async fn bind(
        self,
        relays: RelayConfig,
        observability: &Observability,
    ) -> Result<Bound, Failure> {
        observability.fetch_keys(&self.authenticator)?;
        let listener = bind("--listen", self.listen.address())?;
        let address = address(&listener)?;
        let limits = self.listen.limits(relays.max_relays);
        let relays = relays.bind(self.tls.clone())?;
        follow(&self.tls);
        let admin = AdminServer::start(self.admin, self.tls.clone(), observability).await?;
        Ok(Bound {
            listener,
            address,
            relays,
            tls: self.tls,
            limits,
            not_found: NotFound::new(self.allow_origin),
            admin,
            observability: observability.clone(),
        })
    }
}

impl RelayConfig {
    fn bind(self, tls: Option<Tls>) -> Result<Option<RelayPort>, Failure> {
        let Some(address) = self.address else {
            return Ok(None);
        };
        Ok(Some(RelayPort {
            listener: bind("--relay-listen", address)?,
            tls,
            token: self.token,
            max_relays: self.max_relays,
        }))
    }
}

impl Bound {
    /// `https` with TLS, otherwise `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        scheme(&self.tls)
    }

    /// Serves `router`, whose services have registered their components. From now on a signal drains the process and
    /// does not end it.
    pub(crate) fn serve(self, router: Router, signals: &Signals) -> Serving {
        let shutdown = CancellationToken::new();
        signals.take_over();
        self.observability.all_registered();
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

/// Starts a task that reloads the certificate when its files change. Call it in a tokio runtime.
fn follow(tls: &Option<Tls>) {
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.reload_on_change(TLS_LOOK).await });
    }
}

/// Prints the URL at which the process serves: `text`, or a line of JSON with `--log-format json`.
pub(crate) fn print_ready(format: LogFormat, text: &str, url: &str) -> Result<(), Failure> {
    let line = match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => json_line("INFO", "serving", json!({ "url": url })) + "\n",
    };
    // A server whose standard output is closed continues to serve.
    output::quietly(output::print(&line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use clap::Parser;
    use std::net::TcpListener as StdListener;
    use tokio::net::TcpStream;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        server: ServerFlags,
    }

    /// `--admin` is at `admin`, `--listen` at a free port.
    fn config(admin: &str) -> ServerConfig {
        let line = Line::try_parse_from(["x", "--listen", "127.0.0.1:0", "--admin", admin]);
        ServerConfig::read(&line.unwrap().server).unwrap_or_else(|_| panic!("no files are named"))
    }

    #[tokio::test]
    async fn the_admin_address_is_not_served_before_all_addresses_are_bound() {
        let free = StdListener::bind("127.0.0.1:0").unwrap();
        let admin = free.local_addr().unwrap();
        drop(free);
        let taken = StdListener::bind("127.0.0.1:0").unwrap();
        let relays = RelayConfig {
            address: Some(taken.local_addr().unwrap()),
            ..RelayConfig::default()
        };
        let observability =
            Observability::new().unwrap_or_else(|_| panic!("metrics are registered"));
        assert!(
            config(&admin.to_string())
                .bind(relays, &observability)
                .await
                .is_err()
        );
        assert!(TcpStream::connect(admin).await.is_err());
    }

    #[test]
    fn a_process_is_not_ready_before_its_components_are_registered() {
        let signals = Signals::listen().unwrap_or_else(|_| panic!("no other handler"));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let observability =
                Observability::new().unwrap_or_else(|_| panic!("metrics are registered"));
            let bound = config("off")
                .bind(RelayConfig::default(), &observability)
                .await;
            let bound = bound.unwrap_or_else(|_| panic!("the port is free"));
            assert!(observability.readiness.check().is_err());
            let service = observability.readiness.component("service");
            let _serving = bound.serve(Router::new(), &signals);
            assert_eq!(
                observability.readiness.check(),
                Err("service: starting".to_owned())
            );
            service.ready();
            assert_eq!(observability.readiness.check(), Ok(()));
        });
    }
}
