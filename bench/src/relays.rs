//! What relays cost a publisher, and what a hop adds.
//!
//! ```text
//!  a dataflow's results, written at their rate ─▶ Kafka ─▶ publisher ─▶ stub relays, which throw away
//!                                                              ├─▶ a relay ─▶ subscriber ┐ the same frames:
//!                                                              └─────────────▶ subscriber ┘ how much later?
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
    Ours, Outcome,
    backlog::now_ms,
    child::Contender,
    cluster::{Cluster, PARTITIONS},
};

const PREFIX: &str = "relays";
const WINDOW_MS: u64 = 2000;
/// Emojis of a tally: a frame is some 300 bytes.
const EMOJIS: usize = 6;
const WARM_UP: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    ours: Ours,
    /// Relays that are fed; 0 leaves that part out
    #[arg(long, default_value_t = 100)]
    relays: usize,
    /// Rooms
    #[arg(long, default_value_t = 1000)]
    rooms: usize,
    /// Live tallies of each a second
    #[arg(long, default_value_t = 4)]
    hz: u64,
    /// Have the rooms change one after another, not all at one moment
    #[arg(long)]
    spread: bool,
    /// Rooms that are watched, to see what a hop adds
    #[arg(long, default_value_t = 50)]
    watched: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub(crate) fn run(flags: &Flags) -> Outcome<()> {
    let cluster = Cluster::connect(&flags.ours.kafka)?;
    cluster.renew_results(PREFIX)?;
    let (mut publisher, at_publisher) = start(
        &flags.ours,
        "publisher",
        &[
            "--kafka",
            &flags.ours.kafka,
            "--topic-prefix",
            PREFIX,
            "--relay-listen",
            "127.0.0.1:0",
        ],
    )?;
    let feed = publisher.hear("relays connect to ")?;
    let results = Results::write(&cluster, flags)?;
    let span = Duration::from_secs(flags.seconds);
    thread::sleep(WARM_UP);

    if flags.relays > 0 {
        feeding(&mut publisher, &feed, flags, span)?;
    }
    let (_relay, at_relay) = start(&flags.ours, "relay", &["--upstream", &feed])?;
    let watched = flags.rooms.min(flags.watched);
    let rooms: Vec<String> = (0..watched)
        .map(|nth| name(nth * flags.rooms / watched))
        .collect();
    let at = [&*at_publisher, &at_publisher, &at_relay];
    let [first, second, relayed] = &hop::follow(&at, &rooms, WARM_UP, span)?[..] else {
        return Err("not three subscribers".into());
    };
    results.stop()?;
    println!("| subscribers of | frames | both had | p50 ms later | p99 ms | max ms |");
    println!("|---|---|---|---|---|---|");
    hop::compare("the publisher, a second one", first, second);
    hop::compare("its relay", first, relayed);
    Ok(())
}

/// What relays cost that are fed and do nothing.
fn feeding(publisher: &mut Contender, feed: &str, flags: &Flags, span: Duration) -> Outcome<()> {
    let alone = share(publisher, span)?;
    let stubs = stub::Stubs::attach(feed, flags.relays)?;
    stubs.wait_until_present(PATIENCE)?;
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

/// The share of a core that a process takes.
fn share(process: &Contender, span: Duration) -> Outcome<f64> {
    let (begun, before) = (Instant::now(), process.cpu()?);
    thread::sleep(span);
    Ok((process.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// A role on a port of its own, and where it listens.
fn start(ours: &Ours, role: &str, arguments: &[&str]) -> Outcome<(Contender, String)> {
    let place = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = place.local_addr()?.to_string();
    drop(place);
    let process = Contender::start(
        Command::new(&ours.program)
            .args([role, "--listen", &address, "--admin", "off"])
            .args(arguments)
            .args(&ours.flags),
    )?;
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(&address).is_err() {
        if Instant::now() >= until {
            return Err(format!("the {role} does not listen at {address}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((process, address))
}

/// A thread that writes what a dataflow would.
struct Results {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), String>>,
}

impl Results {
    fn write(cluster: &Cluster, flags: &Flags) -> Outcome<Results> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, filler) = (stop.clone(), cluster.filler(2)?);
        let (count, every) = (flags.rooms, Duration::from_millis(1000 / flags.hz.max(1)));
        let apart = match flags.spread {
            true => every / count.max(1) as u32,
            false => Duration::ZERO,
        };
        let rooms: Vec<Room> = (0..count)
            .map(|nth| Room::new(&name(nth)))
            .collect::<Result<_, _>>()?;
        let write = move || -> Outcome<()> {
            let size = WindowSize::from_ms(WINDOW_MS).ok_or("no window")?;
            let (mut due, mut open) = (Instant::now(), size.window_of(now_ms()));
            for beat in 1.. {
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
                    let put = |topic: &str, record: &WindowRecord| -> Outcome<()> {
                        let value = serde_json::to_vec(record)?;
                        filler.write(&format!("{PREFIX}.{topic}"), partition, now_ms(), &value)
                    };
                    if open != closed {
                        put("windows", &tally(room, closed, None, beat))?;
                    }
                    put("live", &tally(room, open, Some(now_ms()), beat))?;
                }
            }
            filler.finish()
        };
        let thread = thread::spawn(move || write().map_err(|error| error.to_string()));
        Ok(Results { stop, thread })
    }

    fn stop(self) -> Outcome<()> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the writer panicked")??)
    }
}

fn tally(
    room: &Room,
    window: emostream_model::Window,
    emitted_at: Option<u64>,
    beat: u64,
) -> WindowRecord {
    let emojis = Emoji::all().take(EMOJIS).zip(1..);
    let mut counts: Vec<_> = emojis
        .map(|(emoji, nth)| compress(emoji, beat * nth, 1000))
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
