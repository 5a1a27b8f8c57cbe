//! `emostream relay`: receives the updates of a publisher or another relay, and sends them to subscribers and to
//! further relays.

use std::path::PathBuf;

use clap::Args;
use emostream_app::{
    flags::parse::host_and_port,
    process::{Failure, LogFormat, Signals, block_on},
    server::Observability,
};
use emostream_broadcast::{IngestUrl, Upstreams};
use emostream_http::ClientTls;
use emostream_log::EventClock;

use crate::{
    PROGRAM,
    cli::flags::ServerFlags,
    server::{PublisherFlags, PublisherProcess, ServerConfig},
};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The --relay-listen address of a publisher or a relay. Several are separated by commas, the preferred one first;
    /// only one is used at a time
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        required = true
    )]
    #[arg(value_parser = upstream)]
    upstream: Vec<String>,
    /// Connect to the upstreams with TLS, and trust the certificates that the system trusts
    #[arg(long)]
    upstream_tls: bool,
    /// Connect to the upstreams with TLS, and trust the certificates in this file (PEM) and certificates signed by them
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<PathBuf>,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    publishing: PublisherFlags,
    /// URL to which the web page sends reactions; by default the page sends them to its own address
    #[arg(long, value_name = "URL")]
    ingest_url: Option<IngestUrl>,
}

fn upstream(text: &str) -> Result<String, String> {
    let text = text.trim();
    match host_and_port(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write HOST:PORT, for example publisher:9470 or [fd00::2]:9470".to_owned()),
    }
}

pub(crate) fn run(flags: Flags, mut signals: Signals, format: LogFormat) -> Result<(), Failure> {
    let server = ServerConfig::read(&flags.server)?;
    let relays = flags.publishing.relays()?;
    let token = relays.token.clone();
    let trust = match (&flags.upstream_ca, flags.upstream_tls) {
        (Some(file), _) => ClientTls::with_ca_file(file)
            .map(Some)
            .map_err(|why| Failure::usage("--upstream-ca", why))?,
        (None, true) => ClientTls::with_system_roots()
            .map(Some)
            .map_err(|why| Failure::usage("--upstream-tls", why))?,
        (None, false) => None,
    };
    let clock = EventClock::host();
    let subscribers = flags
        .publishing
        .subscribers(&server, flags.ingest_url, clock);
    block_on(async {
        let observability = Observability::new(PROGRAM)?;
        let bound = server.bind(relays, &observability).await?;
        let upstreams = Upstreams {
            addresses: flags.upstream,
            name: bound.address.to_string(),
            token,
            trust,
        };
        let relaying =
            PublisherProcess::start_relay(upstreams, subscribers, &observability).await?;
        relaying.serve(("relay", format), bound, &mut signals).await
    })
}
