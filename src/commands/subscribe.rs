//! `emostream subscribe`: a room in the terminal, one line a message.

use clap::Args;
use emostream_model::{Count, Frame, Room, Tally};
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    client::{AccessFlags, News, Server, Subscription, Transport},
    exit::Failure,
    output,
    signal::Signals,
};

/// The most emojis of a line.
const LINE_COUNTS: usize = 6;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where a publisher or `up` listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: Server,
    #[command(flatten)]
    access: AccessFlags,
    /// The room to follow
    #[arg(long, default_value = "default")]
    room: Room,
    /// Server-Sent Events instead of a WebSocket
    #[arg(long)]
    sse: bool,
    /// Print the messages as they come, one JSON object a line
    #[arg(long)]
    json: bool,
    /// Begin behind this final, to be told what came since
    #[arg(long, value_name = "ID")]
    since: Option<emostream_model::ResultId>,
}

pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    super::run(follow(flags))
}

async fn follow(flags: Flags) -> Result<(), Failure> {
    let transport = match flags.sse {
        true => Transport::ServerSentEvents,
        false => Transport::WebSocket,
    };
    let server = flags.access.open()?.to(&flags.url)?;
    let mut signals = Signals::listen()?;
    let mut room = Subscription::new(server, flags.room, transport);
    if let Some(id) = flags.since {
        room = room.since(id);
    }
    let mut connected = false;
    loop {
        let news = tokio::select! {
            news = room.next() => news.map_err(Failure::unavailable)?,
            _ = signals.next() => return Ok(()),
        };
        match news {
            News::Frame { text, frame } => {
                connected = true;
                let line = if flags.json { text } else { describe(&frame) };
                match output::print(&format!("{line}\n")) {
                    Ok(()) => {}
                    gone => return output::quietly(gone),
                }
            }
            News::Lost { why, .. } if !connected => {
                let why = format!("--url: {} is not reachable: {why}", flags.url);
                return Err(Failure::unavailable(why));
            }
            News::Lost { why, pause } => {
                eprintln!("emostream: {why}; next try in {:.1} s", pause.as_secs_f64());
            }
        }
    }
}

/// A message for people.
fn describe(frame: &Frame) -> String {
    match frame {
        Frame::Hello {
            room,
            window_ms,
            resumed,
            ..
        } => {
            let resumed = if *resumed { ", resumed" } else { "" };
            format!("in room {room}: windows of {window_ms} ms{resumed}")
        }
        Frame::Live {
            window,
            total,
            counts,
            others,
            ..
        } => {
            format!(
                "{} live  {total:>9}  {}",
                clock(window.start),
                tallies(counts, *others)
            )
        }
        Frame::Final {
            id,
            window,
            total,
            counts,
            others,
            ..
        } => {
            let counts = tallies(counts, *others);
            format!("{} final {total:>9}  {counts}  [{id}]", clock(window.start))
        }
        Frame::Trending { top, .. } if top.is_empty() => "nothing is trending any more".to_owned(),
        Frame::Trending { span_ms, top, .. } => {
            let top: Vec<_> = top.iter().take(LINE_COUNTS).map(count).collect();
            format!(
                "trending in the last {} s: {}",
                span_ms / 1000,
                top.join("  ")
            )
        }
        Frame::Gap { after, reason } => {
            format!("finals after {after} were missed ({reason:?})")
        }
        Frame::Bye { retry_ms } => format!("the server says bye; back in {retry_ms} ms"),
    }
}

fn count(count: &Count) -> String {
    format!("{} {}", count.emoji, count.count)
}

fn tallies(tallies: &[Tally], others: u64) -> String {
    let listed = tallies
        .iter()
        .take(LINE_COUNTS)
        .map(|tally| match tally.swarms {
            0 => format!("{} {}", tally.emoji, tally.count),
            swarms => format!("{} {} ({swarms} swarms)", tally.emoji, tally.count),
        });
    let unlisted: u64 = tallies
        .iter()
        .skip(LINE_COUNTS)
        .map(|tally| tally.count)
        .sum();
    let rest = Some(unlisted + others).filter(|rest| *rest > 0);
    let rest = rest.map(|rest| format!("others {rest}"));
    listed.chain(rest).collect::<Vec<_>>().join("  ")
}

/// The time of day here.
pub(super) fn clock(at_ms: u64) -> String {
    let moment = i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let moment = moment
        .unwrap_or_default()
        .to_zoned_datetime(TimeZone::system());
    moment.strftime("%H:%M:%S%.3f").to_string()
}
