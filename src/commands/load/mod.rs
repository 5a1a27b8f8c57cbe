//! `emostream load`: an open-loop generator of reactions, for rehearsals.
//!
//! ```text
//!  schedule ──intended times──▶ senders ──POST──▶ server ──WebSocket──▶ finals
//!                                  │ ledger: accepted, unknown             │
//!                                  └──────────────▶ verdict ◀──────────────┘
//!  probe: one reaction at a time in a room of its own, until a frame shows it
//! ```
//!
//! Open loop: reactions come when they come, not when the server is ready for them, and a latency
//! counts from the intended moment. So a server that stalls cannot hide it.

mod crowd;
mod finals;
mod late;
mod ledger;
mod probe;
mod report;
mod schedule;
mod sender;
mod verdict;

use std::{sync::Arc, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_model::{MAX_ROOM_BYTES, Room};
use indicatif::{ProgressBar, ProgressStyle};

use self::{crowd::Crowd, ledger::Ledger, schedule::Schedule};
use crate::{
    client::{Answer, Poster, Server},
    exit::{Exit, Failure},
    output,
    signal::Signals,
    values::{Rate, duration},
};

/// How long an answer may take: longer than ingest's own deadline for `?wait=stored`.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The most reactions of an array (INTERFACE).
const MOST_BATCHED: u64 = 1000;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where an ingest or `up` listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Server,
    /// Reactions, for example 5000/s
    #[arg(long, default_value = "100/s")]
    rate: Rate,
    /// How long
    #[arg(long, default_value = "60s", value_parser = duration)]
    duration: Duration,
    /// Users that react
    #[arg(long, default_value_t = 1000, value_parser = Ranged::<u64>::new().range(1..))]
    users: u64,
    /// Rooms that they react in
    #[arg(long, default_value_t = 1, value_parser = Ranged::<u64>::new().range(1..=10_000))]
    rooms: u64,
    /// The room; with several, or with --verify, the beginning of their names
    #[arg(long, default_value = "default")]
    room: Room,
    /// Reactions a request
    #[arg(long, default_value_t = 1, value_parser = Ranged::<u64>::new().range(1..=MOST_BATCHED))]
    batch: u64,
    /// Ask for each answer only once the log has the reactions (?wait=stored)
    #[arg(long)]
    stored: bool,
    /// Compare the finals with what was accepted: lost, doubled, late; exit 1 on a difference
    #[arg(long)]
    verify: bool,
    /// How often one reaction's way to the screen is measured, or off
    #[arg(long, value_name = "RATE|off", default_value = "1/s", value_parser = probe_rate)]
    probe: ProbeRate,
    /// Where publishers are, if not at --url
    #[arg(long, value_name = "URL")]
    subscribe_url: Option<Server>,
    /// The dataflow's metrics, to tell late reactions from lost ones [default: port 9464 of --url]
    #[arg(long, value_name = "URL")]
    metrics_url: Option<Server>,
}

#[derive(Debug, Clone, Copy)]
struct ProbeRate(Option<Rate>);

fn probe_rate(text: &str) -> Result<ProbeRate, String> {
    match text {
        "off" => Ok(ProbeRate(None)),
        _ => text.parse().map(|rate| ProbeRate(Some(rate))),
    }
}

pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    let run = format!("{:08x}", rand::random::<u32>());
    let rooms = room_names(&flags, &run)?;
    let probe_room = Room::new(&format!("probe-{run}")).map_err(|e| Failure::usage("--room", e))?;
    super::runtime()?.block_on(rehearse(flags, rooms, probe_room))
}

/// One room keeps its name, so that people in it see the crowd. Verified rooms belong to one run
/// alone, since anybody else's reactions would look like doubled ones.
fn room_names(flags: &Flags, run: &str) -> Result<Vec<Room>, Failure> {
    if flags.rooms == 1 && !flags.verify {
        return Ok(vec![flags.room.clone()]);
    }
    let name = |number| match flags.verify {
        true => format!("{}-{run}-{number}", flags.room),
        false => format!("{}-{number}", flags.room),
    };
    let room = |number| {
        let too_long = format!("with a number behind it, longer than {MAX_ROOM_BYTES} bytes");
        Room::new(&name(number)).map_err(|_| Failure::usage("--room", too_long))
    };
    (1..=flags.rooms).map(room).collect()
}

async fn rehearse(flags: Flags, rooms: Vec<Room>, probe_room: Room) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let poster = Poster::new(flags.url.clone(), sender::IN_FLIGHT, ANSWER_LIMIT);
    if let Answer::Refused(why) | Answer::Unknown(why) = poster.get("/v1/rooms").await {
        let why = format!("--url: {} is not reachable: {why}", flags.url);
        return Err(Failure::unavailable(why));
    }
    let screens = flags
        .subscribe_url
        .clone()
        .unwrap_or_else(|| flags.url.clone());
    let late = late::Counter::new(&flags.url, flags.metrics_url.clone());
    let late_before = late.read().await;
    let finals = match flags.verify {
        true => Some(finals::follow(&screens, &rooms).await?),
        false => None,
    };

    let probe = flags
        .probe
        .0
        .map(|rate| probe::Probe::start(&screens, probe_room, &poster, rate));
    let crowd = Crowd::new(rooms.clone(), flags.users, flags.batch as usize);
    let plan = Schedule::new(flags.rate.per_second / flags.batch as f64, flags.duration);
    let ledger = Arc::new(Ledger::default());
    let path = if flags.stored {
        "/v1/reactions?wait=stored"
    } else {
        "/v1/reactions"
    };
    let bar = progress_bar(plan.posts());
    let sending = sender::send_all(&plan, crowd, &poster, path, &ledger, &bar);
    let interrupted = tokio::select! {
        () = sending => false,
        _ = signals.next() => true,
    };
    bar.finish_and_clear();
    let probed = match probe {
        Some(probe) => Some(probe.finish().await),
        None => None,
    };
    let sent = ledger.close();
    say(&report::sent(&sent, probed.as_ref()))?;
    if interrupted {
        return Err(Failure::new(Exit::Mismatch, "interrupted before the end"));
    }
    let Some(finals) = finals else {
        return Ok(());
    };
    let counted = finals.after_the_last_window(&poster).await;
    let late = late.since(late_before).await;
    let verdict = verdict::compare(&rooms, &sent, &counted, late);
    say(&format!("{verdict}\n"))?;
    match verdict.holds() {
        true => Ok(()),
        false => Err(Failure::new(
            Exit::Mismatch,
            "the finals are not what was accepted",
        )),
    }
}

fn say(text: &str) -> Result<(), Failure> {
    output::quietly(output::print(text))
}

fn progress_bar(posts: u64) -> ProgressBar {
    let template = "{bar:30} {pos}/{len} requests  {per_sec}  {msg}  {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(posts).with_style(style)
}
