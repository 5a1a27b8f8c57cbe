//! The addresses that a service listens on, from the flags to the end of the last connection.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use emostream_app::{
    process::{Exit, Failure, LogFormat, Signals, json_line, output},
    server::{AdminServer, Drain, Observability, address, bind, scheme},
};
use emostream_broadcast::{RelayPort, RelayToken};
use emostream_http::{
    AllowOrigin, Authenticator, DrainOutcome, Limits, Listener, NotFound, Tls, serve,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::cli::flags::{ListenFlags, ServerFlags};

/// The validated configuration of a service's addresses. All files are read, but no address is bound yet.
pub(crate) struct ServerConfig {
    listen: ListenFlags,
    admin: Option<SocketAddr>,
    tls: Option<Tls>,
    pub(crate) allow_origin: AllowOrigin,
    pub(crate) authenticator: Authenticator,
}

/// The configuration of the address that relays connect to. By default there is none.
#[derive(Default)]
pub(crate) struct RelayConfig {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) token: RelayToken,
    /// Maximum connected relays.
    pub(crate) max_relays: u32,
}

/// The bound addresses of a service. They are bound before the service starts. So if two processes on one host have the
/// same addresses, the second one ends at once.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    /// The address for relays. The publisher or relay that serves the address takes this value.
    pub(crate) relays: Option<RelayPort>,
    tls: Option<Tls>,
    limits: Limits,
    not_found: NotFound,
    admin: AdminServer,
    observability: Observability,
}

/// A service that accepts connections.
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

    /// Binds all addresses, and then starts to serve the admin address. Requires a tokio runtime.
    pub(crate) async fn bind(
        self,
        relays: RelayConfig,
        observability: &Observability,
    ) -> Result<Bound, Failure> {
        // The keys of `--jwks-url` are requested before the `--admin` address is served: otherwise `/readyz` would be
        // 200 for a moment although no keys are loaded.
        self.authenticator
            .follow(&observability.registry, &observability.readiness)
            .map_err(|error| Failure::new(Exit::Defect, error.to_string()))?;
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
    /// Returns the scheme of the service's URLs: `https` with TLS, otherwise `http`.
    pub(crate) fn scheme(&self) -> &'static str {
        scheme(&self.tls)
    }

    /// Serves `router`. Call this function after the services of `router` have registered their components for
    /// readiness. From now on, a signal does not end the process at once, but starts a drain.
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
    /// Serves until a signal requests the end of the process, or until `failed` returns. Then no new connection is
    /// accepted. Returns the failure if there was one, and the drain with its deadline.
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

    /// Waits until all connections have ended, at most until the deadline of the drain. Returns the server of the admin
    /// address, which still serves.
    pub(crate) async fn drained(self, drain: &Drain) -> AdminServer {
        drain.wait_for(self.connections).await;
        self.admin
    }
}

/// Interval at which the files of the certificate are read. A new pair of certificate and key is used after two reads
/// have found the same content. This delay does no harm, since certificates are replaced weeks before they expire.
const TLS_LOOK: Duration = Duration::from_secs(2);

/// Starts a task that reloads the certificate when its files change. Requires a tokio runtime.
fn follow(tls: &Option<Tls>) {
    if let Some(tls) = tls.clone() {
        tokio::spawn(async move { tls.reload_on_change(TLS_LOOK).await });
    }
}

/// Prints that the process serves now. The line is `text`, or with `--log-format json` a JSON object that contains
/// `url`.
pub(crate) fn print_ready(format: LogFormat, text: &str, url: &str) -> Result<(), Failure> {
    let line = match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => json_line("INFO", "serving", json!({ "url": url })) + "\n",
    };
    // A closed standard output is not an error, so the server continues to serve.
    output::quietly(output::print(&line))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::PROGRAM;
    use clap::Parser;
    use std::net::TcpListener as StdListener;
    use tokio::net::TcpStream;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        server: ServerFlags,
    }

    /// Returns a configuration with the value `admin` for `--admin`, and a free port for `--listen`.
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
            Observability::new(PROGRAM).unwrap_or_else(|_| panic!("metrics are registered"));
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
                Observability::new(PROGRAM).unwrap_or_else(|_| panic!("metrics are registered"));
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
