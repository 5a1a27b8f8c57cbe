//! Measures a dataflow at a steady rate of plain records: its CPU time, its memory, and the time until the final result
//! of a window is visible. This time is measured from the end of the window plus the lateness.
//!
//! The load is an open loop: each record is written when it is due, even if earlier records are not counted yet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use emostream_model::WindowRecord;
use rdkafka::Offset;

use crate::{
    EMOSTREAM, EmoStreamFlags, Result,
    backlog::{end_of, now_ms},
    cluster::{Cluster, PARTITIONS},
    crowd::{Crowd, Names},
    drain::start_dataflow,
    rounds::{Measured, in_turn, print_ratios},
    table::quantile,
};

/// Default lateness of the dataflow.
const LATENESS_MS: u64 = 750;

const PREFIX: &str = "steady";

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Records per second
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Duration of the measurement, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Duration of the warm-up, in seconds
    #[arg(long, default_value_t = 6)]
    warm_up: u64,
    /// Number of rounds. In each round every program is measured once
    #[arg(long, default_value_t = 1)]
    rounds: usize,
}

/// The result of one run.
struct Run {
    delays_ms: Vec<f64>,
    /// CPU time as a share of one core.
    share: f64,
    resident_mb: f64,
    peak_mb: f64,
}

impl Run {
    fn delay_ms(&self, share: f64) -> f64 {
        quantile(&mut self.delays_ms.clone(), share)
    }
}

impl Measured for Run {
    const COLUMNS: &str =
        "finals | p50 ms | p99 ms | max ms | CPU of a core | resident MB | peak MB";

    fn cells(&self) -> String {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.delay_ms(share));
        format!(
            "{} | {p50:.0} | {p99:.0} | {max:.0} | {:.1} % | {:.0} | {:.0}",
            self.delays_ms.len(),
            self.share * 100.0,
            self.resident_mb,
            self.peak_mb,
        )
    }
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    println!("{} records/s:", flags.rate);
    let programs = flags.emostream.programs(EMOSTREAM);
    let runs = in_turn(&programs, flags.rounds, |program| {
        measure(program, flags, &cluster)
    })?;
    print_ratios("CPU", &programs, &runs, |run| run.share);
    print_ratios("p50", &programs, &runs, |run| run.delay_ms(0.5));
    Ok(())
}

fn measure(program: &str, flags: &Flags, cluster: &Cluster) -> Result<Run> {
    let topic = format!("{PREFIX}.reactions");
    cluster.recreate(&topic, PARTITIONS)?;
    cluster.recreate_results(PREFIX)?;
    let load = Load::start(cluster, &topic, flags.rate)?;
    let mut dataflow = start_dataflow(program, &flags.emostream, PREFIX)?;
    let finals = cluster.reader(&format!("{PREFIX}.windows"), Offset::Beginning)?;

    let warm = Instant::now() + Duration::from_secs(flags.warm_up);
    while Instant::now() < warm {
        finals.next(Duration::from_millis(20), |_, _| {})?;
    }
    let (begun, before) = (Instant::now(), dataflow.cpu()?);
    let mut delays_ms = Vec::new();
    while begun.elapsed() < Duration::from_secs(flags.seconds) {
        let mut read = Ok(());
        finals.next(Duration::from_millis(20), |_, value| {
            read = serde_json::from_slice::<WindowRecord>(value).map(|record| {
                let due_ms = end_of(record.window.start) + LATENESS_MS;
                delays_ms.push(now_ms() as f64 - due_ms as f64);
            });
        })?;
        read?;
        dataflow.check_running()?;
    }
    let run = Run {
        delays_ms,
        share: (dataflow.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64(),
        resident_mb: dataflow.resident_mb()?,
        peak_mb: dataflow.peak_mb()?,
    };
    load.stop()?;
    Ok(run)
}

/// A thread that writes each record when it is due.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<(), String>>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, topic: &str, rate: u64) -> Result<Load> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = cluster.writer(2)?;
        let topic = topic.to_owned();
        let crowd = Crowd {
            rooms: 20,
            emojis: 30,
            reactions: u64::MAX,
            begin_ms: 0,
            span_ms: 0,
            seed: 1,
        };
        let names = Names::of(&crowd)?;
        let write = move || -> Result<()> {
            let begun = Instant::now();
            let mut events = crowd.events();
            let mut written = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                let due = (begun.elapsed().as_secs_f64() * rate as f64) as u64;
                while written < due {
                    let mut event = events.next().ok_or("the crowd has no more reactions")?;
                    event.at_ms = now_ms();
                    let partition = (written % u64::from(PARTITIONS)) as u32;
                    writer.write(
                        &topic,
                        partition,
                        event.at_ms,
                        event.json(&names).as_bytes(),
                    )?;
                    written += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            writer.finish()
        };
        let thread = thread::spawn(move || write().map_err(|error| error.to_string()));
        Ok(Load { stop, thread })
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the load panicked")??)
    }
}
