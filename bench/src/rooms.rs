//! Measures the duration of a close, and memory, with many rooms and emojis.
//!
//! Every room has a reaction of every emoji in every window. The records are those of an ingest: two batches a second
//! in every partition.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use emostream_model::{Batch, Reaction};
use rdkafka::Offset;

use crate::{
    EmoStreamFlags, Result,
    backlog::now_ms,
    cluster::{Cluster, PARTITIONS, RecordWriter, ResultReader},
    crowd::{Crowd, Event, Names, WINDOW_MS, window_of},
    drain::start_dataflow,
    table::{median, quantile},
};

const PREFIX: &str = "rooms";

/// Default flush interval of an ingest.
const FLUSH_MS: u64 = 500;

/// Maximum number of reactions in a record. A record with this number of reactions is not larger than 1 MB, the default
/// limit of a topic.
const MAX_RECORD_REACTIONS: usize = 20_000;

/// Default lateness of the dataflow.
const LATENESS_MS: u64 = 750;

/// If the reader receives no final for this long, it has read all committed finals.
const QUIET: Duration = Duration::from_secs(1);

/// Maximum number of emojis in a room whose totals the dataflow writes at each change. It writes the totals of larger
/// rooms less often.
const SMALL_EMOJIS: u32 = 100;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    #[arg(long, default_value_t = 10_000)]
    rooms: u32,
    #[arg(long, default_value_t = 50)]
    emojis: u32,
    /// Number of measured windows
    #[arg(long, default_value_t = 20)]
    windows: usize,
}

#[derive(Debug, Args)]
pub(crate) struct MemoryFlags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    #[arg(long, default_value_t = 400)]
    rooms: u32,
    #[arg(long, default_value_t = 50)]
    emojis: u32,
    /// Minutes of event time
    #[arg(long, default_value_t = 30)]
    minutes: u64,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreFlags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    #[arg(long, default_value_t = 100_000)]
    rooms: u32,
    #[arg(long, default_value_t = 60)]
    emojis: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A crowd that sends one reaction of every emoji in every room in each window.
struct UniformCrowd {
    names: Names,
    crowd: Crowd,
    /// Keys in a pseudo-random order, so that every batch contains most rooms. The order is the same in each window.
    order: Vec<u32>,
}

impl UniformCrowd {
    fn new(rooms: u32, emojis: u32) -> Result<UniformCrowd> {
        use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
        let crowd = Crowd {
            rooms,
            emojis,
            reactions: 0,
            begin_ms: 0,
            span_ms: 0,
            seed: 1,
        };
        let mut order: Vec<u32> = (0..rooms * emojis).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(crowd.seed));
        Ok(UniformCrowd {
            names: Names::of(&crowd)?,
            crowd,
            order,
        })
    }

    /// Writes the batches of the flush interval that ends at `end_ms`.
    fn flush(&self, writer: &RecordWriter, topic: &str, end_ms: u64) -> Result<()> {
        let base_ms = end_ms - FLUSH_MS;
        let flushes = (WINDOW_MS / FLUSH_MS) as usize;
        let which = ((base_ms - window_of(base_ms)) / FLUSH_MS) as usize;
        let share = self.order.len().div_ceil(flushes * PARTITIONS as usize);
        let mut shares = self.order.chunks(share).skip(which * PARTITIONS as usize);
        for partition in 0..PARTITIONS {
            let keys = shares.next().unwrap_or_default();
            if keys.is_empty() {
                writer.write(topic, partition, end_ms, &Batch::heartbeat(end_ms - 1))?;
            }
            for keys in keys.chunks(MAX_RECORD_REACTIONS) {
                let reactions: Result<Vec<Reaction>> = (0..)
                    .zip(keys)
                    .map(|(index, key)| self.reaction(*key, base_ms + index % FLUSH_MS))
                    .collect();
                let value = Batch::encode(base_ms, &reactions?);
                writer.write(topic, partition, end_ms, &value)?;
            }
        }
        Ok(())
    }

    fn reaction(&self, key: u32, at_ms: u64) -> Result<Reaction> {
        let (room, emoji) = (key / self.crowd.emojis, key % self.crowd.emojis);
        Event {
            room,
            emoji,
            user: key,
            at_ms,
        }
        .reaction(&self.names)
    }
}

/// The results of one window: for each topic, how many results were read, and when the last one was read.
#[derive(Debug, Default, Clone)]
struct Close {
    results: BTreeMap<&'static str, (u32, u64)>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    let topic = format!("{PREFIX}.reactions");
    cluster.recreate(&topic, PARTITIONS)?;
    cluster.recreate_results(PREFIX)?;
    let crowd = UniformCrowd::new(flags.rooms, flags.emojis)?;
    let written: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (written, stop, writer) = (written.clone(), stop.clone(), cluster.writer(2)?);
        thread::spawn(move || {
            load(&crowd, &writer, &topic, &written, &stop).map_err(|e| e.to_string())
        })
    };

    let mut dataflow = start_dataflow(&flags.emostream, PREFIX)?;
    let readers: Result<Vec<(&'static str, ResultReader)>> = ["windows", "totals", "trending"]
        .into_iter()
        .map(|name| {
            Ok((
                name,
                cluster.reader(&format!("{PREFIX}.{name}"), Offset::Beginning)?,
            ))
        })
        .collect();
    let readers = readers?;
    let mut closes: BTreeMap<u64, Close> = BTreeMap::new();
    let (mut cpu, mut resident) = (Vec::new(), Vec::new());
    let complete = |closes: &BTreeMap<u64, Close>, name: &str| {
        closes
            .values()
            .filter(|close| {
                close
                    .results
                    .get(name)
                    .is_some_and(|(n, _)| *n >= flags.rooms)
            })
            .count()
    };
    // The dataflow does not write the totals of rooms with more emojis in each window, so the loop waits for finals
    // instead.
    let last = if flags.emojis <= SMALL_EMOJIS {
        "totals"
    } else {
        "windows"
    };
    let until = Instant::now() + Duration::from_secs(30 + 4 * flags.windows as u64);
    let mut sampled = 0;
    while complete(&closes, last) < flags.windows && Instant::now() < until {
        for (name, finals) in &readers {
            for _ in 0..1000 {
                let mut start = None;
                if !finals.next(Duration::from_millis(1), |_, value| start = start_of(value))? {
                    break;
                }
                let start = start.ok_or("a result without a start")?;
                let close = closes.entry(start).or_default();
                let (count, at_ms) = close.results.entry(*name).or_default();
                *count += 1;
                *at_ms = now_ms();
            }
        }
        let done = complete(&closes, last);
        if done > sampled {
            sampled = done;
            cpu.push(dataflow.cpu()?.as_secs_f64());
            resident.push(dataflow.resident_mb()?);
        }
        dataflow.check_running()?;
    }
    stop.store(true, Ordering::Relaxed);
    load.join().map_err(|_| "the load panicked")??;

    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} rooms x {} emojis a window; each from the flush that lets it close until all is visible:",
        flags.rooms, flags.emojis
    );
    println!("| results | windows | p50 ms | max ms |");
    println!("|---|---|---|---|");
    for (name, _) in &readers {
        let mut took: Vec<f64> = closes
            .iter()
            .filter_map(|(start, close)| {
                let closing = written.range(start + WINDOW_MS + LATENESS_MS..).next()?.1;
                let (count, at_ms) = close.results.get(name)?;
                (*count >= flags.rooms).then_some(*at_ms as f64 - *closing as f64)
            })
            // The first windows are a warm-up, so they are not measured.
            .skip(2)
            .collect();
        println!(
            "| {name} | {} | {:.0} | {:.0} |",
            took.len(),
            quantile(&mut took, 0.5),
            quantile(&mut took, 1.0)
        );
    }
    let steps: Vec<f64> = cpu.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!(
        "CPU s a window {:.2}; resident MB {:.0?}",
        median(steps),
        resident
    );
    Ok(())
}

/// Measures the time from a start to its first final. Each start restores the totals of all rooms, and one room
/// receives reactions meanwhile.
pub(crate) fn restore(flags: &RestoreFlags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    let prefix = "restore";
    let topic = format!("{prefix}.reactions");
    cluster.recreate(&topic, PARTITIONS)?;
    cluster.recreate_results(prefix)?;
    let crowd = UniformCrowd::new(flags.rooms, flags.emojis)?;
    let writer = cluster.writer(50)?;
    let begin_ms = window_of(now_ms() - 2 * WINDOW_MS);
    for flush in 1..=WINDOW_MS / FLUSH_MS {
        crowd.flush(&writer, &topic, begin_ms + flush * FLUSH_MS)?;
    }
    writer.finish()?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (one, stop, writer) = (UniformCrowd::new(1, 1)?, stop.clone(), cluster.writer(2)?);
        thread::spawn(move || {
            let written = Mutex::default();
            load(&one, &writer, &topic, &written, &stop).map_err(|e| e.to_string())
        })
    };
    let totals = cluster.reader(&format!("{prefix}.totals"), Offset::Beginning)?;
    let finals = cluster.reader(&format!("{prefix}.windows"), Offset::Beginning)?;
    let mut dataflow = start_dataflow(&flags.emostream, prefix)?;
    let mut seen = 0;
    while seen < flags.rooms {
        match totals.next(Duration::from_millis(100), |_, _| {})? {
            true => seen += 1,
            false => dataflow.check_running()?,
        }
    }
    let mut seconds = Vec::new();
    for _ in 0..flags.rounds {
        drop(dataflow);
        while finals.next(QUIET, |_, _| {})? {}
        let begun = Instant::now();
        dataflow = start_dataflow(&flags.emostream, prefix)?;
        while !finals.next(Duration::from_millis(5), |_, _| {})? {
            dataflow.check_running()?;
        }
        seconds.push(begun.elapsed().as_secs_f64());
    }
    stop.store(true, Ordering::Relaxed);
    load.join().map_err(|_| "the load panicked")??;
    println!("| totals | to the first final s, each | median | resident MB |");
    println!("|---|---|---|---|");
    println!(
        "| {} x {} | {seconds:.1?} | {:.1} | {:.0} |",
        flags.rooms,
        flags.emojis,
        median(seconds.clone()),
        dataflow.resident_mb()?
    );
    Ok(())
}

/// Writes each flush when it is due, until `stop` is set. Inserts the time of each write into `written`, by the newest
/// event time of the flush.
fn load(
    crowd: &UniformCrowd,
    writer: &RecordWriter,
    topic: &str,
    written: &Mutex<BTreeMap<u64, u64>>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut end_ms = window_of(now_ms()) + WINDOW_MS;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(end_ms.saturating_sub(now_ms())));
        crowd.flush(writer, topic, end_ms)?;
        written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(end_ms - 1, now_ms());
        end_ms += FLUSH_MS;
    }
    Ok(())
}

/// Finds the start of the window in the text of a result, without parsing the JSON.
fn start_of(value: &[u8]) -> Option<u64> {
    let name = b"\"start\":";
    let at = value.windows(name.len()).position(|bytes| bytes == name)? + name.len();
    let digits = value[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

pub(crate) fn memory(flags: &MemoryFlags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    let prefix = "memory";
    let topic = format!("{prefix}.reactions");
    cluster.recreate(&topic, PARTITIONS)?;
    cluster.recreate_results(prefix)?;
    let crowd = UniformCrowd::new(flags.rooms, flags.emojis)?;
    let writer = cluster.writer(50)?;
    let span_ms = flags.minutes * 60_000;
    let begin_ms = window_of(now_ms() - span_ms - 10_000);
    for flush in 1..=span_ms / FLUSH_MS {
        crowd.flush(&writer, &topic, begin_ms + flush * FLUSH_MS)?;
    }
    writer.finish()?;

    let begun = Instant::now();
    let mut dataflow = start_dataflow(&flags.emostream, prefix)?;
    let finals = cluster.reader(&format!("{prefix}.windows"), Offset::Beginning)?;
    let windows = span_ms / WINDOW_MS - 1;
    let mut resident = Vec::new();
    let mut seen = 0;
    let results = windows * u64::from(flags.rooms);
    let step = results / 10;
    while seen < results {
        if finals.next(Duration::from_millis(100), |_, _| {})? {
            seen += 1;
            if seen % step == 0 {
                resident.push(dataflow.resident_mb()?);
            }
        } else {
            dataflow.check_running()?;
        }
    }
    println!(
        "{} minutes of event time, {} rooms x {} emojis a window, in {:.1?}",
        flags.minutes,
        flags.rooms,
        flags.emojis,
        begun.elapsed()
    );
    println!(
        "resident MB at each tenth: {resident:.0?}; peak {:.0}; CPU {:.1?}",
        dataflow.peak_mb()?,
        dataflow.cpu()?
    );
    Ok(())
}
