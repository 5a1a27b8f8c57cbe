//! Formats a frame as one line of text for people.

use emostream_model::{Count, Frame, GapReason, Tally};
use jiff::{Timestamp, tz::TimeZone};

use crate::cli::parse::span_ms;

/// Maximum number of emojis in a line.
const LINE_COUNTS: usize = 6;

/// Returns the line for a frame; `None` for a heartbeat, which is not shown.
pub(super) fn describe(frame: &Frame) -> Option<String> {
    Some(match frame {
        Frame::Hello {
            room,
            window_ms,
            resumed,
            ..
        } => {
            let resumed = if *resumed { ", resumed" } else { "" };
            format!(
                "in room {room}: windows of {}{resumed}",
                span_ms(*window_ms)
            )
        }
        Frame::Heartbeat { .. } => return None,
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
            format!("finals after {after} were missed: {}", why(*reason))
        }
        Frame::Bye { retry_ms } => bye(*retry_ms),
    })
}

/// Returns the words for the reason why finals were missed.
pub(super) fn why(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Slow => "read too slowly",
        GapReason::Expired => "they are no longer stored",
    }
}

/// Returns the sentence for a `bye` of the server.
pub(super) fn bye(retry_ms: u64) -> String {
    let seconds = retry_ms as f64 / 1000.0;
    format!("the server shuts down; reconnecting in {seconds:.1} s")
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
            1 => format!("{} {} (1 swarm)", tally.emoji, tally.count),
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

/// Formats a time (Unix milliseconds) as the time of day in the time zone of this host, to the millisecond.
pub(in crate::commands) fn clock(at_ms: u64) -> String {
    let moment = i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let moment = moment
        .unwrap_or_default()
        .to_zoned_datetime(TimeZone::system());
    moment.strftime("%H:%M:%S%.3f").to_string()
}
