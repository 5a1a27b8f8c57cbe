//! What a hop adds: the same rooms followed at a publisher and at its relay, and when each had the same frame.
//!
//! One thread reads all, so what it takes itself is in both times alike. How much that is shows by a second
//! subscriber at the publisher.

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

use crate::{Outcome, table::quantile};

/// When each frame came, by its text.
type Arrivals = HashMap<String, Instant>;

/// Follows `rooms` at each address; all that came within `span`, once it is warm.
pub(super) fn follow(
    addresses: &[&str],
    rooms: &[String],
    warm_up: Duration,
    span: Duration,
) -> Outcome<Vec<Arrivals>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arrivals: Vec<Arc<Mutex<Arrivals>>> = addresses.iter().map(|_| Arc::default()).collect();
    let taken = || {
        let taken = arrivals
            .iter()
            .map(|kept| Ok(std::mem::take(&mut *kept.lock()?)));
        taken.collect::<Result<Vec<Arrivals>, std::sync::PoisonError<_>>>()
    };
    runtime.block_on(async {
        let mut readers = JoinSet::new();
        for (address, kept) in addresses.iter().zip(&arrivals) {
            for room in rooms {
                readers.spawn(read((*address).to_owned(), room.clone(), kept.clone()));
            }
        }
        sleep(warm_up).await;
        // What each got when it joined says when it joined.
        drop(taken());
        sleep(span).await;
        match readers.try_join_next() {
            Some(ended) => Err(format!("a subscriber ended: {ended:?}")),
            None => Ok(()),
        }
    })?;
    taken().map_err(|_| "a subscriber panicked".into())
}

async fn read(address: String, room: String, kept: Arc<Mutex<Arrivals>>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(&address).await?;
    let head = format!("GET /v1/rooms/{room}/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let now = Instant::now();
        if let Some(frame) = line.strip_prefix("data: ")
            && let Ok(mut kept) = kept.lock()
        {
            kept.insert(frame.to_owned(), now);
        }
    }
    Ok(())
}

/// Tells how much later `second` had what `first` had.
pub(super) fn compare(who: &str, first: &Arrivals, second: &Arrivals) {
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
            "| {who} | {kind} | {} | {:.2} | {:.2} | {:.2} |",
            later_ms.len(),
            quantile(&mut later_ms, 0.5),
            quantile(&mut later_ms, 0.99),
            quantile(&mut later_ms, 1.0),
        );
    }
}
