//! Formats frames as lines of text for people.

use emostream_model::{Count, Frame, GapReason, Tally};
use jiff::{Timestamp, tz::TimeZone};

use crate::cli::parse::span_ms;

/// Maximum number of emojis in a line.
const LINE_COUNTS: usize = 6;

/// The sentence that is shown while the server receives no new counts.
pub(super) const NOT_COUNTING: &str =
    "counting has stopped; reactions are kept and will be counted";

/// Formats the frames of one subscription.
pub(super) struct Lines {
    /// Whether the server receives new counts, according to its last message.
    counting: bool,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { counting: true }
    }

    /// Returns the line for a frame; `None` for a heartbeat that reports no change.
    pub(super) fn describe(&mut self, frame: &Frame) -> Option<String> {
        match frame {
            Frame::Hello { counting, .. } => self.counting = *counting,
            Frame::Heartbeat { counting, .. } => {
                let was = std::mem::replace(&mut self.counting, *counting);
                let line = if *counting {
                    "counting continues"
                } else {
                    NOT_COUNTING
                };
                return (was != *counting).then(|| line.to_owned());
            }
            _ => {}
        }
        line(frame)
    }
}

fn line(frame: &Frame) -> Option<String> {
    Some(match frame {
        Frame::Hello {
            room,
            window_ms,
            resumed,
            counting,
            ..
        } => {
            let window = span_ms(*window_ms);
            let resumed = if *resumed { ", resumed" } else { "" };
            let stopped = if *counting {
                String::new()
            } else {
                format!("; {NOT_COUNTING}")
            };
            format!("in room {room}: windows of {window}{resumed}{stopped}")
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

/// Returns the words for the reason why final results were missed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_once_that_counting_has_stopped_and_once_that_it_continues() {
        let mut lines = Lines::new();
        let said = [true, false, false, true, true].map(|counting| {
            let heartbeat = Frame::Heartbeat { now: 0, counting };
            lines.describe(&heartbeat)
        });
        let [none, stopped, still, continues, nothing] = &said;
        assert_eq!((none, still, nothing), (&None, &None, &None));
        assert_eq!(stopped.as_deref(), Some(NOT_COUNTING));
        assert_eq!(continues.as_deref(), Some("counting continues"));
    }
}
