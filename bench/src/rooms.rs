//! Many rooms and emojis: how long a window's close takes, and whether memory stays flat.
//!
//! Every room shows every emoji in every window. The records are what an ingest would write: twice a
//! second one batch to every partition.

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
    Ours, Outcome,
    backlog::now_ms,
    cluster::{Cluster, Filler, Finals, PARTITIONS},
    crowd::{Crowd, Names, Tap, WINDOW_MS, window_of},
    drain::start_ours,
    table::{median, quantile},
};

const PREFIX: &str = "rooms";

/// As an ingest does by default.
const FLUSH_MS: u64 = 500;

/// So many fit into a record of 1 MB, the most that a topic accepts by default.
const MOST_IN_A_RECORD: usize = 20_000;

/// The dataflow's default.
const LATENESS_MS: u64 = 750;

/// If no final arrives for this long, all committed finals have been read.
const QUIET: Duration = Duration::from_secs(1);

/// The dataflow writes the totals of rooms with so many emojis at each change.
const SMALL_EMOJIS: u32 = 100;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    ours: Ours,
    #[arg(long, default_value_t = 10_000)]
    rooms: u32,
    #[arg(long, default_value_t = 50)]
    emojis: u32,
    /// Windows that are measured
    #[arg(long, default_value_t = 20)]
    windows: usize,
}

#[derive(Debug, Args)]
pub(crate) struct MemoryFlags {
    #[command(flatten)]
    ours: Ours,
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
    ours: Ours,
    #[arg(long, default_value_t = 100_000)]
    rooms: u32,
    #[arg(long, default_value_t = 60)]
    emojis: u32,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// One reaction of every emoji in every room, over and over, each window the same.
struct Everybody {
    names: Names,
    crowd: Crowd,
    /// The same pseudo-random order in each window, so that every batch holds most rooms.
    order: Vec<u32>,
}

impl Everybody {
    fn new(rooms: u32, emojis: u32) -> Outcome<Everybody> {
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
        Ok(Everybody {
            names: Names::of(&crowd)?,
            crowd,
            order,
        })
    }

    /// Writes the flush of the half second that ends at `end_ms`.
    fn flush(&self, filler: &Filler, topic: &str, end_ms: u64) -> Outcome<()> {
        let base_ms = end_ms - FLUSH_MS;
        let flushes = (WINDOW_MS / FLUSH_MS) as usize;
        let which = ((base_ms - window_of(base_ms)) / FLUSH_MS) as usize;
        let share = self.order.len().div_ceil(flushes * PARTITIONS as usize);
        let mut shares = self.order.chunks(share).skip(which * PARTITIONS as usize);
        for partition in 0..PARTITIONS {
            let keys = shares.next().unwrap_or_default();
            if keys.is_empty() {
                filler.write(topic, partition, end_ms, &Batch::heartbeat(end_ms - 1))?;
            }
            for keys in keys.chunks(MOST_IN_A_RECORD) {
                let reactions: Outcome<Vec<Reaction>> = (0..)
                    .zip(keys)
                    .map(|(index, key)| self.reaction(*key, base_ms + index % FLUSH_MS))
                    .collect();
                let value = Batch::encode(base_ms, &reactions?);
                filler.write(topic, partition, end_ms, &value)?;
            }
        }
        Ok(())
    }

    fn reaction(&self, key: u32, at_ms: u64) -> Outcome<Reaction> {
        let (room, emoji) = (key / self.crowd.emojis, key % self.crowd.emojis);
        Tap {
            room,
            emoji,
            user: key,
            at_ms,
        }
        .reaction(&self.names)
    }
}

/// What is known of one window: when the flush was written that lets it close, and how many of its
/// results were seen, the last one when.
#[derive(Debug, Default, Clone)]
struct Close {
    results: BTreeMap<&'static str, (u32, u64)>,
}

pub(crate) fn run(flags: &Flags) -> Outcome<()> {
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    let topic = format!("{PREFIX}.reactions");
    cluster.renew(&topic, PARTITIONS)?;
    cluster.renew_results(PREFIX)?;
    let everybody = Everybody::new(flags.rooms, flags.emojis)?;
    let written: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (written, stop, filler) = (written.clone(), stop.clone(), cluster.filler(2)?);
        thread::spawn(move || {
            load(&everybody, &filler, &topic, &written, &stop).map_err(|e| e.to_string())
        })
    };

    let mut dataflow = start_ours(&flags.ours, PREFIX)?;
    let readers: Outcome<Vec<(&'static str, Finals)>> = ["windows", "totals", "trending"]
        .into_iter()
        .map(|name| {
            Ok((
                name,
                cluster.finals(&format!("{PREFIX}.{name}"), Offset::Beginning)?,
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
    // Of rooms with more emojis not each window writes the totals.
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
        dataflow.check()?;
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
            // The first ones warm it up.
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

/// Measures starts that restore the totals of all rooms, while one room still gets reactions.
pub(crate) fn restore(flags: &RestoreFlags) -> Outcome<()> {
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    let prefix = "restore";
    let topic = format!("{prefix}.reactions");
    cluster.renew(&topic, PARTITIONS)?;
    cluster.renew_results(prefix)?;
    let everybody = Everybody::new(flags.rooms, flags.emojis)?;
    let filler = cluster.filler(50)?;
    let begin_ms = window_of(now_ms() - 2 * WINDOW_MS);
    for flush in 1..=WINDOW_MS / FLUSH_MS {
        everybody.flush(&filler, &topic, begin_ms + flush * FLUSH_MS)?;
    }
    filler.finish()?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (one, stop, filler) = (Everybody::new(1, 1)?, stop.clone(), cluster.filler(2)?);
        thread::spawn(move || {
            let written = Mutex::default();
            load(&one, &filler, &topic, &written, &stop).map_err(|e| e.to_string())
        })
    };
    let totals = cluster.finals(&format!("{prefix}.totals"), Offset::Beginning)?;
    let finals = cluster.finals(&format!("{prefix}.windows"), Offset::Beginning)?;
    let mut dataflow = start_ours(&flags.ours, prefix)?;
    let mut seen = 0;
    while seen < flags.rooms {
        match totals.next(Duration::from_millis(100), |_, _| {})? {
            true => seen += 1,
            false => dataflow.check()?,
        }
    }
    let mut seconds = Vec::new();
    for _ in 0..flags.rounds {
        drop(dataflow);
        while finals.next(QUIET, |_, _| {})? {}
        let begun = Instant::now();
        dataflow = start_ours(&flags.ours, prefix)?;
        while !finals.next(Duration::from_millis(5), |_, _| {})? {
            dataflow.check()?;
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

/// Flushes on time until it is stopped; notes when a flush with times up to which end was written.
fn load(
    everybody: &Everybody,
    filler: &Filler,
    topic: &str,
    written: &Mutex<BTreeMap<u64, u64>>,
    stop: &AtomicBool,
) -> Outcome<()> {
    let mut end_ms = window_of(now_ms()) + WINDOW_MS;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(end_ms.saturating_sub(now_ms())));
        everybody.flush(filler, topic, end_ms)?;
        written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(end_ms - 1, now_ms());
        end_ms += FLUSH_MS;
    }
    Ok(())
}

/// The window's start in a result, without reading the rest.
fn start_of(value: &[u8]) -> Option<u64> {
    let name = b"\"start\":";
    let at = value.windows(name.len()).position(|bytes| bytes == name)? + name.len();
    let digits = value[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

pub(crate) fn memory(flags: &MemoryFlags) -> Outcome<()> {
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    let prefix = "memory";
    let topic = format!("{prefix}.reactions");
    cluster.renew(&topic, PARTITIONS)?;
    cluster.renew_results(prefix)?;
    let everybody = Everybody::new(flags.rooms, flags.emojis)?;
    let filler = cluster.filler(50)?;
    let span_ms = flags.minutes * 60_000;
    let begin_ms = window_of(now_ms() - span_ms - 10_000);
    for flush in 1..=span_ms / FLUSH_MS {
        everybody.flush(&filler, &topic, begin_ms + flush * FLUSH_MS)?;
    }
    filler.finish()?;

    let begun = Instant::now();
    let mut dataflow = start_ours(&flags.ours, prefix)?;
    let finals = cluster.finals(&format!("{prefix}.windows"), Offset::Beginning)?;
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
            dataflow.check()?;
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
