//! What relays cost a publisher, and what a hop adds.
//!
//! ```text
//!  a dataflow's results, written at their rate ─▶ Kafka ─▶ publisher ─▶ stub relays, which throw away
//!                                                              ├─▶ a relay ─▶ subscriber ┐ the same frames:
//!                                                              └─────────────▶ subscriber ┘ how much later?
//! ```

mod stub;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::Command,
    sync::{
        Arc, Mutex,
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
    table::quantile,
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
    /// Relays that are fed
    #[arg(long, default_value_t = 100)]
    relays: usize,
    /// Rooms
    #[arg(long, default_value_t = 1000)]
    rooms: usize,
    /// Live tallies of each a second
    #[arg(long, default_value_t = 4)]
    hz: u64,
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

    let alone = share(&publisher, span)?;
    let stubs = stub::Stubs::attach(&feed, flags.relays)?;
    stubs.wait_until_present(PATIENCE)?;
    thread::sleep(WARM_UP);
    let bytes = stubs.bytes();
    let with_relays = share(&publisher, span)?;
    let bytes = (stubs.bytes() - bytes) as f64 / span.as_secs_f64() / flags.relays as f64;
    stubs.check()?;
    drop(stubs);
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

    let (_relay, at_relay) = start(&flags.ours, "relay", &["--upstream", &feed])?;
    let seen = [&at_publisher, &at_relay].map(|at| Seen::at(at));
    thread::sleep(WARM_UP);
    // What each got when it joined says when it joined.
    for seen in seen.iter().flatten() {
        seen.forget()?;
    }
    thread::sleep(span);
    results.stop()?;
    let [at_publisher, at_relay] = seen.map(|seen| seen.map(Seen::stop));
    compare(at_publisher?, &at_relay?);
    Ok(())
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
        let rooms: Vec<Room> = (0..count)
            .map(|nth| Room::new(&format!("room-{nth}")))
            .collect::<Result<_, _>>()?;
        let write = move || -> Outcome<()> {
            let size = WindowSize::from_ms(WINDOW_MS).ok_or("no window")?;
            let (mut due, mut open) = (Instant::now(), size.window_of(now_ms()));
            for beat in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due += every;
                let closed = open;
                open = size.window_of(now_ms());
                for (partition, room) in (0..PARTITIONS).cycle().zip(&rooms) {
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

/// When each frame of a room came, by its text.
struct Seen {
    frames: Arc<Mutex<HashMap<String, Instant>>>,
    stream: TcpStream,
    thread: JoinHandle<()>,
}

impl Seen {
    fn at(address: &str) -> Outcome<Seen> {
        let mut stream = TcpStream::connect(address)?;
        let head = format!("GET /v1/rooms/room-500/events HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let frames = Arc::new(Mutex::new(HashMap::new()));
        let (reader, kept) = (BufReader::new(stream.try_clone()?), frames.clone());
        let thread = thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let now = Instant::now();
                if let Some(frame) = line.strip_prefix("data: ")
                    && let Ok(mut kept) = kept.lock()
                {
                    kept.insert(frame.to_owned(), now);
                }
            }
        });
        Ok(Seen {
            frames,
            stream,
            thread,
        })
    }

    fn forget(&self) -> Outcome<()> {
        self.frames
            .lock()
            .map_err(|_| "a subscriber panicked")?
            .clear();
        Ok(())
    }

    fn stop(self) -> Outcome<HashMap<String, Instant>> {
        self.stream.shutdown(std::net::Shutdown::Both)?;
        self.thread.join().map_err(|_| "a subscriber panicked")?;
        let mut frames = self.frames.lock().map_err(|_| "a subscriber panicked")?;
        Ok(std::mem::take(&mut frames))
    }
}

/// How much later the relay's subscriber had what the publisher's had.
fn compare(
    at_publisher: Outcome<HashMap<String, Instant>>,
    at_relay: &Outcome<HashMap<String, Instant>>,
) {
    let (Ok(at_publisher), Ok(at_relay)) = (at_publisher, at_relay) else {
        println!("a subscriber had nothing");
        return;
    };
    println!("| frames | both had | p50 ms later | p99 ms | max ms |");
    println!("|---|---|---|---|---|");
    for kind in ["live", "final"] {
        let of_kind = format!(r#"{{"type":"{kind}""#);
        let frames = at_publisher
            .iter()
            .filter(|(text, _)| text.starts_with(&of_kind));
        let mut later_ms: Vec<f64> = frames
            .filter_map(|(text, then)| {
                let now = at_relay.get(text)?;
                let later = now.saturating_duration_since(*then).as_secs_f64();
                let earlier = then.saturating_duration_since(*now).as_secs_f64();
                Some((later - earlier) * 1000.0)
            })
            .collect();
        println!(
            "| {kind} | {} | {:.2} | {:.2} | {:.2} |",
            later_ms.len(),
            quantile(&mut later_ms, 0.5),
            quantile(&mut later_ms, 0.99),
            quantile(&mut later_ms, 1.0),
        );
    }
}
