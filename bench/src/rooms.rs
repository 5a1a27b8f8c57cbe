//! Measures the duration of a close, and memory, with many rooms and emojis.
//!
//! Every room has a reaction of every emoji in every window. The records are like the records of an ingest: two batches
//! a second in every partition.

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
use emostream_model::{Batch, ReactionRef};
use rdkafka::Offset;

use crate::{
    EMOSTREAM, EmoStreamFlags, Result,
    backlog::now_ms,
    cluster::{Cluster, PARTITIONS, RecordWriter, ResultReader},
    crowd::{Crowd, Names, WINDOW_MS, window_of},
    drain::start_dataflow,
    rounds::{Measured, in_turn, print_ratios},
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

/// If the reader receives no final result for this long, all committed final results have been read.
const QUIET: Duration = Duration::from_secs(1);

/// Maximum number of emojis in a room whose totals the dataflow writes at each change. The dataflow writes the totals
/// of rooms with more emojis less often.
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
    /// Number of rounds. In each round every program is measured once
    #[arg(long, default_value_t = 1)]
    rounds: usize,
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

/// A crowd. In every window it sends one reaction with each emoji to each room.
struct UniformCrowd {
    names: Names,
    emojis: u32,
    /// The keys (room and emoji) in a pseudo-random order, so that every batch contains most rooms. The order is the
    /// same in each window.
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
            emojis,
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
                let reactions = (0..)
                    .zip(keys)
                    .map(|(index, key)| self.reaction(*key, base_ms + index % FLUSH_MS));
                let value = Batch::encode(base_ms, reactions);
                writer.write(topic, partition, end_ms, &value)?;
            }
        }
        Ok(())
    }

    /// Returns the reaction of a key. The reaction borrows all its texts. So generating the load of many rooms needs
    /// little CPU time, which leaves the cores to the dataflow.
    fn reaction(&self, key: u32, at_ms: u64) -> ReactionRef<'_> {
        let room = self.names.room(key / self.emojis);
        ReactionRef {
            user: room,
            emoji: self.names.emoji(key % self.emojis),
            room,
            at_ms,
        }
    }
}

/// The topics of results whose delay is measured.
const RESULTS: [&str; 3] = ["windows", "totals", "trending"];

/// The results of one window: for each topic, the number of results that were read, and the time at which the last one
/// was read.
type Close = [(u32, u64); RESULTS.len()];

/// The result of one run.
struct Run {
    /// For each topic, the duration of each close: from the flush after which the window can close until all its
    /// results are visible.
    closes_ms: [Vec<f64>; RESULTS.len()],
    /// For each window, the CPU time that the dataflow used.
    cpu_s: Vec<f64>,
    /// Resident memory after each window.
    resident_mb: Vec<f64>,
}

impl Run {
    fn cpu_s(&self) -> f64 {
        median(self.cpu_s.clone())
    }

    fn finals_ms(&self) -> f64 {
        median(self.closes_ms[0].clone())
    }
}

impl Measured for Run {
    const COLUMNS: &str = "windows: number, p50 ms, max | totals | trending | CPU s a window | resident MB after each";

    fn cells(&self) -> String {
        let closes = self.closes_ms.clone().map(|mut ms| {
            let [p50, max] = [0.5, 1.0].map(|share| quantile(&mut ms, share));
            format!("{}, {p50:.0}, {max:.0}", ms.len())
        });
        let (closes, cpu_s) = (closes.join(" | "), self.cpu_s());
        format!("{closes} | {cpu_s:.2} | {:.0?}", self.resident_mb)
    }
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    println!(
        "{} rooms x {} emojis a window; each from the flush that lets it close until all is visible:",
        flags.rooms, flags.emojis
    );
    let programs = flags.emostream.programs(EMOSTREAM);
    let runs = in_turn(&programs, flags.rounds, |program| {
        measure(program, flags, &cluster)
    })?;
    print_ratios("CPU a window", &programs, &runs, Run::cpu_s);
    print_ratios("p50 of the finals", &programs, &runs, Run::finals_ms);
    Ok(())
}

fn measure(program: &str, flags: &Flags, cluster: &Cluster) -> Result<Run> {
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

    let mut dataflow = start_dataflow(program, &flags.emostream, PREFIX)?;
    let readers: Result<Vec<ResultReader>> = RESULTS
        .iter()
        .map(|name| cluster.reader(&format!("{PREFIX}.{name}"), Offset::Beginning))
        .collect();
    let readers = readers?;
    let mut closes: BTreeMap<u64, Close> = BTreeMap::new();
    let (mut cpu, mut resident_mb) = (Vec::new(), Vec::new());
    // The loop waits for the totals of each window. For rooms with more emojis, the dataflow does not write the totals
    // in each window, so the loop waits for the final results instead.
    let last = usize::from(flags.emojis <= SMALL_EMOJIS);
    let complete = |closes: &BTreeMap<u64, Close>| {
        let complete = closes.values().filter(|close| close[last].0 >= flags.rooms);
        complete.count()
    };
    let until = Instant::now() + Duration::from_secs(30 + 4 * flags.windows as u64);
    while complete(&closes) < flags.windows && Instant::now() < until {
        for (which, results) in readers.iter().enumerate() {
            for _ in 0..1000 {
                let mut start = None;
                if !results.next(Duration::from_millis(1), |_, value| start = start_of(value))? {
                    break;
                }
                let close = closes.entry(start.ok_or("a result without a start")?);
                let (count, at_ms) = &mut close.or_default()[which];
                *count += 1;
                *at_ms = now_ms();
            }
        }
        if complete(&closes) > cpu.len() {
            cpu.push(dataflow.cpu()?.as_secs_f64());
            resident_mb.push(dataflow.resident_mb()?);
        }
        dataflow.check_running()?;
    }
    stop.store(true, Ordering::Relaxed);
    load.join().map_err(|_| "the load panicked")??;

    let written = written.lock().unwrap_or_else(PoisonError::into_inner);
    let closes_ms = std::array::from_fn(|which| {
        let took = |(start, close): (&u64, &Close)| {
            let closing = written.range(start + WINDOW_MS + LATENESS_MS..).next()?.1;
            let (count, at_ms) = close[which];
            (count >= flags.rooms).then_some(at_ms as f64 - *closing as f64)
        };
        // The first windows are a warm-up, so they are not measured.
        closes.iter().filter_map(took).skip(2).collect()
    });
    Ok(Run {
        closes_ms,
        cpu_s: cpu.windows(2).map(|pair| pair[1] - pair[0]).collect(),
        resident_mb,
    })
}

/// Measures the time from the start of the dataflow to its first final result. During each start the dataflow restores
/// the totals of all rooms, while one room receives reactions.
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
    let mut dataflow = start_dataflow(flags.emostream.program()?, &flags.emostream, prefix)?;
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
        dataflow = start_dataflow(flags.emostream.program()?, &flags.emostream, prefix)?;
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

/// Writes each flush when it is due, until `stop` is set. Inserts the time of each write into `written`, whose key is
/// the newest event time of the flush.
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
    let mut dataflow = start_dataflow(flags.emostream.program()?, &flags.emostream, prefix)?;
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
