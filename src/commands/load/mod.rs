//! `emostream load`: an open-loop generator of reactions, for rehearsals.
//!
//! ```text
//!  schedule ──intended times──▶ sender ──POST──▶ server ──WebSocket──▶ finals
//!                                  │ ledger: accepted, unknown             │
//!                                  └──────────────▶ verdict ◀──────────────┘
//!  probe: one reaction at a time in the fullest room, until a frame shows it
//! ```
//!
//! Open loop: reactions come when they come, not when the server is ready for them, and a latency
//! counts from the intended moment. So a server that stalls cannot hide it. One thread does it all: a
//! generator beside the server takes one core at most.

mod crowd;
mod finals;
mod flags;
mod late;
mod ledger;
mod popularity;
mod probe;
mod report;
mod schedule;
mod sender;
mod spike;
mod verdict;

use std::{fmt, sync::Arc, time::Duration};

use hyper::StatusCode;
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

pub(super) use self::finals::MARKS;
pub(crate) use self::flags::Flags;
use self::{
    crowd::{Crowd, Users},
    finals::Finals,
    flags::Asked,
    ledger::{Ledger, Sent},
    probe::Probe,
    report::Report,
    schedule::Schedule,
    sender::Sender,
    verdict::Circumstances,
};
use crate::{
    client::{Answer, Connections, Endpoint},
    exit::{Exit, Failure},
    output,
    signal::Signals,
};

/// How long an answer may take: longer than ingest's own deadline for `?wait=stored`.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// How long the first answer of all may take: whoever mistyped an address does not wait longer.
const REACH_LIMIT: Duration = Duration::from_secs(5);
/// Free connections of the probe and the marks.
const FEW: usize = 2;
/// How often it is looked whether anything is accepted at all.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Ingest's flush interval by default; what it had not flushed when it was killed, a 202 may lose.
const FLUSH: Duration = Duration::from_millis(500);

pub(crate) fn run(flags: Flags, signals: Signals) -> Result<(), Failure> {
    let asked = flags.checked()?;
    let mut thread = tokio::runtime::Builder::new_current_thread();
    let thread = thread.enable_all().build().map_err(|error| {
        Failure::unavailable(format!("the network cannot be waited for: {error}"))
    })?;
    thread.block_on(rehearse(asked, signals))
}

async fn rehearse(asked: Asked, mut signals: Signals) -> Result<(), Failure> {
    let flags = &asked.flags;
    let poster = Arc::new(Connections::new(asked.ingest.clone(), FEW, ANSWER_LIMIT));
    let screens = screens(&asked).await?;
    let late = late::Counter::new(&asked.metrics);
    say(&asked, &places(&asked, screens.as_ref()))?;
    let finals = finals(&asked, screens.as_ref(), &poster).await?;
    let late_before = late.read().await;

    let plan = Schedule::new(
        flags.rate.per_second / flags.batch as f64,
        flags.duration,
        &asked.spikes,
    );
    let in_a_flush = plan.peak_per_second() * flags.batch as f64 * FLUSH.as_secs_f64();
    // From here on an interrupted load reports what it has sent.
    signals.take_over();
    let (sent, mut report) = perform(&asked, plan, screens.as_ref(), &poster, &mut signals).await;
    say(&asked, &report.to_string())?;
    if let Some(finals) = finals.filter(|_| !report.accepted_nothing()) {
        let counted = tokio::select! {
            counted = finals.after_the_last_window(&poster) => counted,
            _ = signals.next() => {
                let why = "interrupted before the finals were compared";
                return Err(Failure::new(Exit::Mismatch, why));
            }
        };
        let circumstances = Circumstances {
            late: late.since(late_before).await,
            stored: flags.stored,
            in_a_flush: in_a_flush.ceil() as u64,
            longest_pause_ms: report.longest_pause_ms(),
        };
        let verdict = verdict::compare(&asked.rooms, &sent, &counted, circumstances);
        say(&asked, &format!("{verdict}\n"))?;
        report.verified(verdict);
    } else if !report.accepted_nothing() {
        say(&asked, &report.in_words())?;
    }
    if flags.json {
        let line = report.json();
        output::quietly(output::print(&format!("{}\n", output::escaped(&line))))?;
    }
    match report.complaint() {
        Some(complaint) => Err(Failure::new(Exit::Mismatch, complaint)),
        None => Ok(()),
    }
}

/// For people.
fn say(asked: &Asked, text: &str) -> Result<(), Failure> {
    match asked.flags.json {
        true => Ok(()),
        false => output::quietly(output::print(text)),
    }
}

/// Where screens can be watched, if anybody needs to. Nobody at --url is a failure.
async fn screens(asked: &Asked) -> Result<Option<Endpoint>, Failure> {
    let flags = &asked.flags;
    let reach = |server: &Endpoint| Connections::new(server.clone(), 1, REACH_LIMIT);
    let at_url = reach(&asked.ingest).get("/v1/rooms").await;
    if let Answer::Refused(why) | Answer::Unknown(why) = &at_url {
        let why = format!("--url: {} is not reachable: {why}", asked.ingest);
        return Err(Failure::unavailable(why));
    }
    if let Answer::Status(StatusCode::UNAUTHORIZED, _) = &at_url {
        let why = format!("{} asks for a token that is good", asked.ingest);
        return Err(Failure::usage("--token-file", why));
    }
    if !flags.verify && flags.probe.0.is_none() {
        return Ok(None);
    }
    let (screens, answer) = match &asked.screens {
        None => (&asked.ingest, at_url),
        Some(screens) => (screens, reach(screens).get("/v1/rooms").await),
    };
    let why = match answer {
        Answer::Status(status, _) if status.is_success() => return Ok(Some(screens.clone())),
        Answer::Status(status, _) => format!("{screens} shows no rooms ({status})"),
        Answer::Refused(why) | Answer::Unknown(why) => {
            format!("{screens} is not reachable: {why}")
        }
    };
    if flags.verify || asked.screens.is_some() {
        let why = format!("--subscribe-url: name a publisher; {why}");
        return Err(Failure::unavailable(why));
    }
    output::complain(&format!(
        "the way to the screen is not measured: {why}; name a publisher by --subscribe-url"
    ));
    Ok(None)
}

/// The rooms, as pages to open.
fn places(asked: &Asked, screens: Option<&Endpoint>) -> String {
    let room = &asked.rooms[0];
    let first = match screens {
        Some(screens) => screens.server().url(&format!("/?room={room}")),
        None => room.to_string(),
    };
    match asked.rooms.last() {
        Some(last) if last != room => {
            let rooms = asked.rooms.len();
            format!("rooms      {rooms}, from the fullest, {first}, to {last}\n")
        }
        _ => format!("room       {first}\n"),
    }
}

async fn finals(
    asked: &Asked,
    screens: Option<&Endpoint>,
    poster: &Connections,
) -> Result<Option<Finals>, Failure> {
    match screens.filter(|_| asked.flags.verify) {
        Some(screens) => Ok(Some(finals::follow(screens, &asked.rooms, poster).await?)),
        None => Ok(None),
    }
}

/// Sends it all, or until a signal.
async fn perform(
    asked: &Asked,
    plan: Schedule,
    screens: Option<&Endpoint>,
    poster: &Arc<Connections>,
    signals: &mut Signals,
) -> (Sent, Report) {
    let flags = &asked.flags;
    let probe = screens
        .zip(flags.probe.0)
        .map(|(screens, rate)| Probe::start(screens, asked.rooms[0].clone(), poster, rate));
    let rooms = asked.rooms.clone();
    let ledger = Arc::new(Ledger::new(rooms.clone()));
    let users = match asked.tokens.is_empty() {
        true => Users::Numbered(asked.users),
        false => Users::Bearers(asked.tokens.clone()),
    };
    let crowd = Crowd::new(rooms, users, flags.batch as usize, flags.zipf, asked.seed);
    let path = match flags.stored {
        true => "/v1/reactions?wait=stored",
        false => "/v1/reactions",
    };
    let limit = flags.connections as usize;
    let connections = Arc::new(Connections::new(asked.ingest.clone(), limit, ANSWER_LIMIT));
    let bar = progress_bar(plan.posts());
    let mut sender = Sender::new(
        plan.clone(),
        crowd,
        (connections.clone(), path),
        ledger.clone(),
        bar.clone(),
    );
    let (interrupted, hopeless) = tokio::select! {
        () = sender.send_all() => (false, false),
        _ = signals.next() => (true, false),
        () = until_hopeless(&ledger) => (false, true),
    };
    let performed = sender.answered().await;
    bar.finish_and_clear();
    let probed = match probe {
        Some(probe) => Some(probe.finish().await),
        None => None,
    };
    let sent = ledger.close();
    let mut report = Report::new(
        asked,
        &plan,
        &performed,
        &sent,
        connections.opened(),
        probed.as_ref(),
    );
    if interrupted {
        report.interrupted();
    }
    if hopeless {
        report.given_up();
    }
    (sent, report)
}

/// Returns when every answer so far is one that does not get better: a wrong role, a wrong port.
async fn until_hopeless(ledger: &Ledger) {
    while !ledger.is_hopeless() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// On a terminal only.
fn progress_bar(posts: u64) -> ProgressBar {
    let template = "{bar:30} {human_pos} of {human_len} requests  {rate}  {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key(
        "rate",
        |state: &ProgressState, text: &mut dyn fmt::Write| {
            // A bar that cannot be drawn is no reason to end.
            let _ = write!(text, "{}/s", HumanCount(state.per_sec().round() as u64));
        },
    );
    ProgressBar::new(posts).with_style(style)
}
