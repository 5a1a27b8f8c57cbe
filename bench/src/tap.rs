//! Measures a tap in a quiet room: the time from the start of the POST of a single reaction until a WebSocket
//! subscriber has received a frame that contains this reaction.
//!
//! ```text
//!  POST ─▶ up: ingest ─▶ log ─▶ dataflow ─▶ log ─▶ publisher ─▶ WebSocket
//!   └─────────────────────── the measured time ───────────────────────┘
//! ```

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use clap::Args;
use emostream_model::{Frame, Window};
use futures_util::StreamExt;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    EmoStreamFlags, Result,
    cluster::{Cluster, PARTITIONS},
    ingest::client::read_response,
    relays::start as start_role,
    table::quantile,
};

const PREFIX: &str = "tap";
const ROOM: &str = "quiet";
/// Number of taps at the beginning that are not measured.
const WARM_UP_TAPS: usize = 5;
/// Timeout of a tap, and of the start of `up`.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before the next POST while `up` is not ready.
const RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Number of measured taps on each log
    #[arg(long, default_value_t = 200)]
    taps: usize,
    /// Mean time between two taps, in milliseconds. Each time is random and differs from the mean by at most a quarter.
    /// In this way taps come at all times of a window and of a flush interval
    #[arg(long, default_value_t = 1000)]
    every: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The delays of the taps of one run.
#[derive(Debug, Default)]
struct Delays {
    all_ms: Vec<f64>,
    /// Number of taps that the subscriber received in a final result, without a live tally before it.
    by_final: usize,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let data = directory
        .path()
        .to_str()
        .ok_or("a path that is not UTF-8")?;
    println!("| log | taps | p50 ms | p99 ms | max ms | by a final |");
    println!("|---|---|---|---|---|---|");
    measure("embedded", flags, &["--data", data])?;
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    cluster.recreate(&format!("{PREFIX}.reactions"), PARTITIONS)?;
    cluster.recreate_results(PREFIX)?;
    let kafka = ["--kafka", cluster.brokers(), "--topic-prefix", PREFIX];
    measure("Kafka", flags, &kafka)
}

/// Starts `up` with these arguments, sends the taps and prints a row of the table.
fn measure(log: &str, flags: &Flags, arguments: &[&str]) -> Result<()> {
    let (_up, address) = start_role(&flags.emostream, "up", arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Delays {
        mut all_ms,
        by_final,
    } = runtime.block_on(tap(flags, address.parse()?))?;
    println!(
        "| {log} | {} | {:.0} | {:.0} | {:.0} | {by_final} |",
        all_ms.len(),
        quantile(&mut all_ms, 0.5),
        quantile(&mut all_ms, 0.99),
        quantile(&mut all_ms, 1.0),
    );
    Ok(())
}

async fn tap(flags: &Flags, server: SocketAddr) -> Result<Delays> {
    let mut random = SmallRng::seed_from_u64(flags.seed);
    let mut poster = Poster::connect(server).await?;
    let mut screen = Screen::connect(server).await?;
    let mut delays = Delays::default();
    let ready_by = Instant::now() + TIMEOUT;
    let mut sent = 0;
    while sent < WARM_UP_TAPS + flags.taps {
        let pause = random.random_range(flags.every * 3 / 4..=flags.every * 5 / 4);
        sleep(Duration::from_millis(pause)).await;
        let sent_at = Instant::now();
        poster.send().await?;
        match read_response(&mut poster.stream, &mut poster.buffer).await? {
            202 => sent += 1,
            503 if sent == 0 && Instant::now() < ready_by => {
                sleep(RETRY).await;
                continue;
            }
            status => return Err(format!("a tap has status {status}").into()),
        }
        let shown = timeout(TIMEOUT, screen.show(sent as u64));
        let is_final = shown.await.map_err(|_| "a tap was not shown in time")??;
        if sent > WARM_UP_TAPS {
            delays.all_ms.push(sent_at.elapsed().as_secs_f64() * 1e3);
            delays.by_final += usize::from(is_final);
        }
    }
    Ok(delays)
}

/// A keep-alive connection that posts reactions.
struct Poster {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Poster {
    async fn connect(server: SocketAddr) -> Result<Poster> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let body = format!(r#"{{"user_id":"tap","emoji_type":"🔥","room":"{ROOM}"}}"#);
        Ok(Poster {
            stream,
            request: format!(
                "POST /v1/reactions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len(),
            ),
            buffer: Vec::new(),
        })
    }

    async fn send(&mut self) -> Result<()> {
        Ok(self.stream.write_all(self.request.as_bytes()).await?)
    }
}

/// A subscriber. For each window, it stores the greatest total that it has received.
struct Screen {
    frames: WebSocketStream<TcpStream>,
    totals: BTreeMap<Window, u64>,
}

impl Screen {
    async fn connect(server: SocketAddr) -> Result<Screen> {
        let stream = TcpStream::connect(server).await?;
        let url = format!("ws://{server}/v1/rooms/{ROOM}/ws");
        let (frames, _) = client_async(url, stream).await?;
        Ok(Screen {
            frames,
            totals: BTreeMap::new(),
        })
    }

    /// Reads frames until the frames contain `expected` reactions. Returns whether the last frame is a final result.
    async fn show(&mut self, expected: u64) -> Result<bool> {
        loop {
            let message = self.frames.next().await.ok_or("the server closed")??;
            let Message::Text(text) = message else {
                continue;
            };
            let (window, received, is_final) = match serde_json::from_str(&text)? {
                Frame::Live { window, total, .. } => (window, total, false),
                Frame::Final { window, total, .. } => (window, total, true),
                _ => continue,
            };
            let total = self.totals.entry(window).or_default();
            *total = received.max(*total);
            if self.totals.values().sum::<u64>() >= expected {
                return Ok(is_final);
            }
        }
    }
}
