//! Measures the cost of relays for a publisher, and the delay that a hop adds.
//!
//! ```text
//!  a dataflow's results, written at their rate ─▶ Kafka ─▶ publisher ─▶ stub relays, which drop all updates
//!                                                              ├─▶ a relay ─▶ subscriber ┐ the same frames:
//!                                                              └─────────────▶ subscriber ┘ delay?
//! ```

mod hop;
mod stub;

use std::{
    net::TcpStream,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use clap::Args;
use emostream_model::{Emoji, Room, WindowRecord, WindowSize, compress, sort_counts};

use crate::{
    EmoStreamFlags, Result,
    backlog::now_ms,
    cluster::{Cluster, PARTITIONS},
    measured_process::MeasuredProcess,
};

const PREFIX: &str = "relays";
const WINDOW_MS: u64 = 2000;
/// Number of emojis in a tally, chosen so that a frame has a typical size.
const EMOJIS: usize = 6;
const WARM_UP: Duration = Duration::from_secs(4);
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    emostream: EmoStreamFlags,
    /// Number of relays; 0 skips the measurement of their cost
    #[arg(long, default_value_t = 100)]
    relays: usize,
    /// Number of rooms
    #[arg(long, default_value_t = 1000)]
    rooms: usize,
    /// Live tallies a second in each room
    #[arg(long, default_value_t = 4)]
    hz: u64,
    /// Write the live tallies of the rooms one after another, not all at the same time
    #[arg(long)]
    spread: bool,
    /// Number of rooms with subscribers, to measure the delay of a hop
    #[arg(long, default_value_t = 50)]
    watched: usize,
    /// Duration of each measurement, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let cluster = Cluster::connect(&flags.emostream.kafka)?;
    cluster.recreate_results(PREFIX)?;
    let (mut publisher, at_publisher) = start(
        &flags.emostream,
        "publisher",
        &[
            "--kafka",
            &flags.emostream.kafka,
            "--topic-prefix",
            PREFIX,
            "--relay-listen",
            "127.0.0.1:0",
        ],
    )?;
    let relay_address = publisher.wait_for_line("relays connect to ")?;
    let results = Results::write(&cluster, flags)?;
    let span = Duration::from_secs(flags.seconds);
    thread::sleep(WARM_UP);

    if flags.relays > 0 {
        measure_relays(&mut publisher, &relay_address, flags, span)?;
    }
    let (_relay, at_relay) = start(&flags.emostream, "relay", &["--upstream", &relay_address])?;
    let watched = flags.rooms.min(flags.watched);
    let rooms: Vec<String> = (0..watched)
        .map(|nth| name(nth * flags.rooms / watched))
        .collect();
    let at = [&*at_publisher, &at_publisher, &at_relay];
    let [first, second, relayed] = &hop::subscribe(&at, &rooms, WARM_UP, span)?[..] else {
        return Err("not three subscribers".into());
    };
    results.stop()?;
    println!("| subscribers of | frames | both had | p50 ms later | p99 ms | max ms |");
    println!("|---|---|---|---|---|---|");
    hop::compare("the publisher, a second one", first, second);
    hop::compare("its relay", first, relayed);
    Ok(())
}

/// Measures the publisher's CPU time, first without relays and then with relays that only receive.
fn measure_relays(
    publisher: &mut MeasuredProcess,
    relay_address: &str,
    flags: &Flags,
    span: Duration,
) -> Result<()> {
    let alone = share(publisher, span)?;
    let stubs = stub::Stubs::attach(relay_address, flags.relays)?;
    stubs.wait_for_snapshots(TIMEOUT)?;
    thread::sleep(WARM_UP);
    let bytes = stubs.bytes();
    let with_relays = share(publisher, span)?;
    let bytes = (stubs.bytes() - bytes) as f64 / span.as_secs_f64() / flags.relays as f64;
    stubs.check()?;
    println!(
        "| rooms × Hz | relays | CPU of a core without | with | a relay's KB/s | resident MB |"
    );
    println!("|---|---|---|---|---|---|");
    println!(
        "| {} × {} | {} | {:.1} % | {:.1} % | {:.0} | {:.0} |\n",
        flags.rooms,
        flags.hz,
        flags.relays,
        alone * 100.0,
        with_relays * 100.0,
        bytes / 1e3,
        publisher.resident_mb()?,
    );
    Ok(())
}

fn name(nth: usize) -> String {
    format!("room-{nth}")
}

/// Returns the CPU time that a process uses in `span`, as a share of one core.
fn share(process: &MeasuredProcess, span: Duration) -> Result<f64> {
    let (begun, before) = (Instant::now(), process.cpu()?);
    thread::sleep(span);
    Ok((process.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// Starts `emostream ROLE`, and returns the process with its address.
pub(crate) fn start(
    emostream: &EmoStreamFlags,
    role: &str,
    arguments: &[&str],
) -> Result<(MeasuredProcess, String)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    drop(listener);
    let process = MeasuredProcess::start(
        Command::new(emostream.program()?)
            .args([role, "--listen", &address, "--admin", "off"])
            .args(arguments)
            .args(&emostream.flags),
    )?;
    let until = Instant::now() + TIMEOUT;
    while TcpStream::connect(&address).is_err() {
        if Instant::now() >= until {
            return Err(format!("the {role} does not listen at {address}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((process, address))
}

/// A thread that writes results as a dataflow does.
struct Results {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Results {
    fn write(cluster: &Cluster, flags: &Flags) -> Result<Results> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, writer) = (stop.clone(), cluster.writer(2)?);
        let (count, every) = (flags.rooms, Duration::from_millis(1000 / flags.hz.max(1)));
        let apart = match flags.spread {
            true => every / count.max(1) as u32,
            false => Duration::ZERO,
        };
        let rooms: Vec<Room> = (0..count)
            .map(|nth| Room::new(&name(nth)))
            .collect::<Result<_, _>>()?;
        let write = move || -> Result<()> {
            let size = WindowSize::from_ms(WINDOW_MS).ok_or("no window")?;
            let (mut due, mut open) = (Instant::now(), size.window_of(now_ms()));
            for tick in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let mut room_due = due;
                due += every;
                let closed = open;
                open = size.window_of(now_ms());
                for (partition, room) in (0..PARTITIONS).cycle().zip(&rooms) {
                    thread::sleep(room_due.saturating_duration_since(Instant::now()));
                    room_due += apart;
                    let write = |topic: &str, record: &WindowRecord| -> Result<()> {
                        let value = serde_json::to_vec(record)?;
                        writer.write(&format!("{PREFIX}.{topic}"), partition, now_ms(), &value)
                    };
                    if open != closed {
                        write("windows", &tally(room, closed, None, tick))?;
                    }
                    write("live", &tally(room, open, Some(now_ms()), tick))?;
                }
            }
            writer.finish()
        };
        let thread = thread::spawn(move || write().map_err(|error| error.to_string()));
        Ok(Results { stop, thread })
    }

    fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the writer panicked")??)
    }
}

fn tally(
    room: &Room,
    window: emostream_model::Window,
    emitted_at: Option<u64>,
    tick: u64,
) -> WindowRecord {
    let emojis = Emoji::all().take(EMOJIS).zip(1..);
    let mut counts: Vec<_> = emojis
        .map(|(emoji, nth)| compress(emoji, tick * nth, 1000))
        .collect();
    sort_counts(&mut counts, |tally| (tally.count, tally.emoji));
    WindowRecord {
        room: room.clone(),
        window,
        emitted_at,
        total: counts.iter().map(|tally| tally.count).sum(),
        counts,
    }
}
