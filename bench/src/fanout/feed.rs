//! Writes results to Kafka at a steady rate, as a dataflow does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::Load;
use crate::{
    Result,
    backlog::now_ms,
    cluster::{Cluster, PARTITIONS, RecordWriter},
};

/// Length of a window, in ms.
pub(crate) const WINDOW_MS: u64 = 2000;

/// A thread that writes results until this value is dropped.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Feed {
    pub(crate) fn start(cluster: &Cluster, prefix: &str, load: Load) -> Result<Feed> {
        let writer = cluster.writer(1)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, prefix) = (stop.clone(), prefix.to_owned());
        let feed =
            move || feed(&writer, &prefix, load, &stopped).map_err(|error| error.to_string());
        let thread = Some(std::thread::spawn(feed));
        Ok(Feed { stop, thread })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the feed ended: {error}");
        }
    }
}

/// Returns the name of a room.
pub(crate) fn room(number: usize) -> String {
    format!("room-{number}")
}

/// Encodes a result as JSON. `kind` is the `type` field of a frame, or empty for a record.
pub(crate) fn result(
    kind: &str,
    room: &str,
    start_ms: u64,
    emitted_at: Option<u64>,
    count: u64,
) -> String {
    let end = start_ms + WINDOW_MS;
    let emitted = emitted_at.map_or(String::new(), |ms| format!(r#""emitted_at":{ms},"#));
    let (swarms, loose, total) = (count / 1000, count % 1000, count + 17);
    format!(
        r#"{{{kind}"room":"{room}","start":{start_ms},"end":{end},{emitted}"total":{total},"counts":[{{"emoji":"🔥","count":{count},"swarms":{swarms},"loose":{loose}}},{{"emoji":"👏","count":17,"swarms":0,"loose":17}}]}}"#
    )
}

fn feed(writer: &RecordWriter, prefix: &str, load: Load, stop: &AtomicBool) -> Result<()> {
    let (live, windows) = (format!("{prefix}.live"), format!("{prefix}.windows"));
    let every = Duration::from_secs(1) / load.rate;
    let window_of = |ms: u64| ms - ms % WINDOW_MS;
    let mut open = window_of(now_ms());
    let begun = Instant::now();
    for tick in 1.. {
        std::thread::sleep((begun + every * tick).saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = window_of(now_ms());
        for number in 0..load.rooms {
            let (room, partition) = (room(number), number as u32 % PARTITIONS);
            if now > open {
                let closed = result("", &room, open, None, u64::from(tick));
                writer.write(&windows, partition, now_ms(), closed.as_bytes())?;
            }
            let at = now_ms();
            let running = result("", &room, now, Some(at), u64::from(tick));
            writer.write(&live, partition, at, running.as_bytes())?;
        }
        open = now;
    }
    Ok(())
}
