//! `emostream load`: an open-loop load generator.
//!
//! ```text
//!  schedule ──intended times──▶ sender ──POST──▶ server ──WebSocket──▶ finals
//!                                  │ ledger: accepted, unknown             │
//!                                  └──────────────▶ verdict ◀──────────────┘
//!  probe: one reaction at a time in the most frequent room, until a frame shows it
//! ```
//!
//! Open loop: requests are sent at their scheduled times, even while the server is slow. A latency is measured from the
//! scheduled time, so that it includes the time for which a request waited (no coordinated omission). The generator
//! uses one thread, so that it needs at most one core of a machine that also runs the server.

mod finals;
mod flags;
mod late;
mod ledger;
mod probe;
mod report;
mod schedule;
mod sender;
mod spike;
mod verdict;
mod workload;
mod zipf;

use std::{fmt, sync::Arc, time::Duration};

use hyper::StatusCode;
use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};

pub(super) use self::finals::MARKS;
pub(crate) use self::flags::Flags;
use self::{
    finals::Finals,
    flags::Settings,
    ledger::{Ledger, Sent},
    probe::Probe,
    report::Report,
    schedule::Schedule,
    sender::Sender,
    verdict::Circumstances,
    workload::{Users, Workload},
};
use crate::{
    client::{Answer, Connections, Endpoint},
    exit::{Exit, Failure},
    output,
    signal::Signals,
};

/// Timeout of a response, which is longer than the timeout of ingest for `?wait=stored`.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Timeout of the first response. It is short, so that a wrong address is reported soon.
const REACH_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of connections for the reactions of the probe and for the marks.
const FEW: usize = 2;
/// Interval of the check whether the server accepts any reaction.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Default of ingest's `--flush`. If ingest is killed, it loses the reactions that it has acknowledged by 202 and not
/// flushed yet.
const FLUSH: Duration = Duration::from_millis(500);

pub(crate) fn run(flags: Flags, signals: Signals) -> Result<(), Failure> {
    let settings = flags.validate()?;
    let mut thread = tokio::runtime::Builder::new_current_thread();
    let thread = thread.enable_all().build().map_err(|error| {
        Failure::unavailable(format!("the tokio runtime cannot start: {error}"))
    })?;
    thread.block_on(run_load(settings, signals))
}

async fn run_load(settings: Settings, mut signals: Signals) -> Result<(), Failure> {
    let flags = &settings.flags;
    let poster = Arc::new(Connections::new(settings.ingest.clone(), FEW, ANSWER_LIMIT));
    let screens = screens(&settings).await?;
    let late = late::Counter::new(&settings.metrics);
    say(&settings, &rooms_to_open(&settings, screens.as_ref()))?;
    let finals = finals(&settings, screens.as_ref(), &poster).await?;
    let late_before = late.read().await;

    let plan = Schedule::new(
        flags.rate.per_second / flags.batch as f64,
        flags.duration,
        &settings.spikes,
    );
    let in_a_flush = plan.peak_per_second() * flags.batch as f64 * FLUSH.as_secs_f64();
    // From here on a signal does not end the process, so that an interrupted load still prints its report.
    signals.take_over();
    let (sent, mut report) =
        send_requests(&settings, plan, screens.as_ref(), &poster, &mut signals).await;
    say(&settings, &report.to_string())?;
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
        let verdict = verdict::compare(&settings.rooms, &sent, &counted, circumstances);
        say(&settings, &format!("{verdict}\n"))?;
        report.verified(verdict);
    } else if !report.accepted_nothing() {
        say(&settings, &report.in_words())?;
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

/// Prints the text, unless `--json` is set.
fn say(settings: &Settings, text: &str) -> Result<(), Failure> {
    match settings.flags.json {
        true => Ok(()),
        false => output::quietly(output::print(text)),
    }
}

/// Returns the server for subscriptions if `--verify` or the probe needs one, otherwise `None`. Returns an error if
/// `--url` is not reachable.
async fn screens(settings: &Settings) -> Result<Option<Endpoint>, Failure> {
    let flags = &settings.flags;
    let reach = |server: &Endpoint| Connections::new(server.clone(), 1, REACH_LIMIT);
    let at_url = reach(&settings.ingest).get("/v1/rooms").await;
    if let Answer::Refused(why) | Answer::Unknown(why) = &at_url {
        let why = format!("--url: {} is not reachable: {why}", settings.ingest);
        return Err(Failure::unavailable(why));
    }
    if let Answer::Status(StatusCode::UNAUTHORIZED, _) = &at_url {
        let why = format!("{} requires a valid token", settings.ingest);
        return Err(Failure::usage("--token-file", why));
    }
    if !flags.verify && flags.probe.0.is_none() {
        return Ok(None);
    }
    let (screens, answer) = match &settings.screens {
        None => (&settings.ingest, at_url),
        Some(screens) => (screens, reach(screens).get("/v1/rooms").await),
    };
    let why = match answer {
        Answer::Status(status, _) if status.is_success() => return Ok(Some(screens.clone())),
        Answer::Status(status, _) => format!("{screens} does not serve rooms ({status})"),
        Answer::Refused(why) | Answer::Unknown(why) => {
            format!("{screens} is not reachable: {why}")
        }
    };
    if flags.verify || settings.screens.is_some() {
        let why = format!("--subscribe-url: {why}; set the address of a publisher");
        return Err(Failure::unavailable(why));
    }
    output::print_error(&format!(
        "the time until a subscriber receives a reaction is not measured: {why}; set --subscribe-url to the address of a publisher"
    ));
    Ok(None)
}

/// Returns the line that names the rooms, with the URL of the web page for the first one.
fn rooms_to_open(settings: &Settings, screens: Option<&Endpoint>) -> String {
    let room = &settings.rooms[0];
    let first = match screens {
        Some(screens) => screens.server().url(&format!("/?room={room}")),
        None => room.to_string(),
    };
    match settings.rooms.last() {
        Some(last) if last != room => {
            let rooms = settings.rooms.len();
            format!("rooms      {rooms}, from the most frequent, {first}, to {last}\n")
        }
        _ => format!("room       {first}\n"),
    }
}

async fn finals(
    settings: &Settings,
    screens: Option<&Endpoint>,
    poster: &Connections,
) -> Result<Option<Finals>, Failure> {
    match screens.filter(|_| settings.flags.verify) {
        Some(screens) => Ok(Some(
            finals::follow(screens, &settings.rooms, poster).await?,
        )),
        None => Ok(None),
    }
}

/// Sends all requests. Ends early at a signal, or if it is clear that the server accepts no request.
async fn send_requests(
    settings: &Settings,
    plan: Schedule,
    screens: Option<&Endpoint>,
    poster: &Arc<Connections>,
    signals: &mut Signals,
) -> (Sent, Report) {
    let flags = &settings.flags;
    let probe = screens
        .zip(flags.probe.0)
        .map(|(screens, rate)| Probe::start(screens, settings.rooms[0].clone(), poster, rate));
    let rooms = settings.rooms.clone();
    let ledger = Arc::new(Ledger::new(rooms.clone()));
    let users = match settings.tokens.is_empty() {
        true => Users::Numbered(settings.users),
        false => Users::Bearers(settings.tokens.clone()),
    };
    let workload = Workload::new(
        rooms,
        users,
        flags.batch as usize,
        flags.zipf,
        settings.seed,
    );
    let path = match flags.stored {
        true => "/v1/reactions?wait=stored",
        false => "/v1/reactions",
    };
    let limit = flags.connections as usize;
    let connections = Arc::new(Connections::new(
        settings.ingest.clone(),
        limit,
        ANSWER_LIMIT,
    ));
    let bar = progress_bar(plan.posts());
    let mut sender = Sender::new(
        plan.clone(),
        workload,
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
        settings,
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

/// Returns when every response so far is a client error that a retry would repeat, for example because `--url` names
/// the wrong service or port.
async fn until_hopeless(ledger: &Ledger) {
    while !ledger.is_hopeless() {
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Returns a progress bar. It is drawn only on a terminal.
fn progress_bar(posts: u64) -> ProgressBar {
    let template = "{bar:30} {human_pos} of {human_len} requests  {rate}  {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key(
        "rate",
        |state: &ProgressState, text: &mut dyn fmt::Write| {
            // An error is ignored, because an error of the progress bar must not end the load.
            let _ = write!(text, "{}/s", HumanCount(state.per_sec().round() as u64));
        },
    );
    ProgressBar::new(posts).with_style(style)
}
