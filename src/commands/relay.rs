//! `emostream relay`: news from a publisher, or from another relay, to subscribers and to further relays.

use std::path::PathBuf;

use clap::Args;
use emostream_broadcast::{IngestUrl, SUBSCRIBER_HEARTBEAT, SubscriberConfig, Upstreams};
use emostream_http::{Nowhere, Trust};
use emostream_log::EventClock;

use super::{
    publishing::{Publishing, RING, Rim},
    roles::Watch,
};
use crate::{
    exit::Failure,
    logging::LogFormat,
    settings::{AdminFlags, FanoutFlags, ListenFlags, OriginFlags, RelayListenFlags, TokenFlags},
    signal::Signals,
    values::host_and_port,
};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where news comes from: the --relay-listen of a publisher or a relay. Several by commas, the best
    /// first; one at a time is followed
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        required = true
    )]
    #[arg(value_parser = upstream)]
    upstream: Vec<String>,
    /// Speak TLS with the upstreams, and believe those that the system believes
    #[arg(long)]
    upstream_tls: bool,
    /// Speak TLS with the upstreams, and believe the certificates in this file (PEM) and those signed by them
    #[arg(long, value_name = "FILE")]
    upstream_ca: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenFlags,
    #[command(flatten)]
    fanout: FanoutFlags,
    #[command(flatten)]
    relays: RelayListenFlags,
    #[command(flatten)]
    admin: AdminFlags,
    #[command(flatten)]
    origin: OriginFlags,
    #[command(flatten)]
    tokens: TokenFlags,
    /// Where the page sends reactions, as browsers reach it: the ingest, if it is not behind the address
    /// that the page is opened at
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
    let tls = flags.listen.tls()?;
    let authenticator = flags.tokens.authenticator()?;
    let token = flags.relays.token()?;
    let trust = match (&flags.upstream_ca, flags.upstream_tls) {
        (Some(file), _) => Trust::in_file(file)
            .map(Some)
            .map_err(|why| Failure::usage("--upstream-ca", why))?,
        (None, true) => Trust::of_the_system()
            .map(Some)
            .map_err(|why| Failure::usage("--upstream-tls", why))?,
        (None, false) => None,
    };
    let nowhere = Nowhere::new(flags.origin.allowed());
    let subscribers = SubscriberConfig {
        ring: RING,
        ingest_url: flags.ingest_url,
        allow_origin: flags.origin.allowed(),
        authenticator: authenticator.clone(),
        shards: flags.fanout.shards(),
        drain: flags.fanout.drain(),
        clock: EventClock::host(),
        heartbeat: SUBSCRIBER_HEARTBEAT,
    };
    super::run(async {
        let watch = Watch::new()?;
        watch.follow_keys(&authenticator)?;
        let (listen, relays, admin) = (&flags.listen, &flags.relays, &flags.admin);
        let rim = Rim::bind(listen, relays, token.clone(), admin, tls, &watch).await?;
        let upstreams = Upstreams {
            addresses: flags.upstream,
            name: rim.address.to_string(),
            token,
            trust,
        };
        let relaying = Publishing::start_relay(upstreams, subscribers, &watch).await?;
        relaying
            .serve(("relay", format), rim, nowhere, &mut signals)
            .await
    })
}
