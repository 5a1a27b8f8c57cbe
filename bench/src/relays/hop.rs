//! Measures the delay of a hop: the times at which subscribers of a publisher and of its relay receive the same frame.
//!
//! One thread reads all connections, so the delay of this thread affects both times equally. As a check, the difference
//! between two subscribers of the publisher is measured, too: it shows how large the delay of the thread is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::{Result, table::quantile};

/// For each frame, the time at which it arrived. The key is the text of the frame.
type Arrivals = HashMap<String, Instant>;

/// Subscribes to `rooms` at each address, and returns the frames that arrive within `span` after `warm_up`.
pub(super) fn subscribe(
    addresses: &[&str],
    rooms: &[String],
    warm_up: Duration,
    span: Duration,
) -> Result<Vec<Arrivals>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arrivals: Vec<Arc<Mutex<Arrivals>>> = addresses.iter().map(|_| Arc::default()).collect();
    let drained = || {
        let drained = arrivals
            .iter()
            .map(|arrived| Ok(std::mem::take(&mut *arrived.lock()?)));
        drained.collect::<Result<Vec<Arrivals>, std::sync::PoisonError<_>>>()
    };
    runtime.block_on(async {
        let mut readers = JoinSet::new();
        for (address, arrived) in addresses.iter().zip(&arrivals) {
            for room in rooms {
                readers.spawn(read((*address).to_owned(), room.clone(), arrived.clone()));
            }
        }
        sleep(warm_up).await;
        // The first frames of a subscriber depend on when it connected, so they are dropped.
        drop(drained());
        sleep(span).await;
        match readers.try_join_next() {
            Some(ended) => Err(format!("a subscriber ended: {ended:?}")),
            None => Ok(()),
        }
    })?;
    drained().map_err(|_| "a subscriber panicked".into())
}

async fn read(address: String, room: String, arrived: Arc<Mutex<Arrivals>>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(&address).await?;
    let head = format!("GET /v1/rooms/{room}/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let now = Instant::now();
        if let Some(frame) = line.strip_prefix("data: ")
            && let Ok(mut arrived) = arrived.lock()
        {
            arrived.insert(frame.to_owned(), now);
        }
    }
    Ok(())
}

/// Prints how much later the same frames arrived in `second` than in `first`.
pub(super) fn compare(label: &str, first: &Arrivals, second: &Arrivals) {
    for kind in ["live", "final"] {
        let of_kind = format!(r#"{{"type":"{kind}""#);
        let frames = first.iter().filter(|(text, _)| text.starts_with(&of_kind));
        let mut later_ms: Vec<f64> = frames
            .filter_map(|(text, then)| {
                let now = second.get(text)?;
                let later = now.saturating_duration_since(*then).as_secs_f64();
                let earlier = then.saturating_duration_since(*now).as_secs_f64();
                Some((later - earlier) * 1000.0)
            })
            .collect();
        println!(
            "| {label} | {kind} | {} | {:.2} | {:.2} | {:.2} |",
            later_ms.len(),
            quantile(&mut later_ms, 0.5),
            quantile(&mut later_ms, 0.99),
            quantile(&mut later_ms, 1.0),
        );
    }
}
