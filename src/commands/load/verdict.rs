//! The verdict, which compares the counts of the final results with the accepted reactions. All functions are pure.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use emostream_model::{Emoji, Room};
use serde::Serialize;

use super::{
    finals::Counted,
    ledger::{Expected, Sent},
};

/// Maximum number of differences that are printed.
const LISTED: usize = 10;

/// Facts about the run that can explain a difference.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Circumstances {
    /// Number of reactions that the dataflow rejected as late during the load; `None` if it is unknown.
    pub(super) late: Option<u64>,
    /// Whether the server responded only after the log had stored the reactions (`--stored`).
    pub(super) stored: bool,
    /// Maximum number of reactions that were sent in one flush interval of ingest.
    pub(super) in_a_flush: u64,
    /// The longest time between two tallies that the probe received; `None` without a probe.
    pub(super) longest_pause_ms: Option<f64>,
}

/// The result of the comparison.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verdict {
    exact: bool,
    accepted: u64,
    unknown: u64,
    counted: u64,
    lost: u64,
    doubled: u64,
    late: Option<u64>,
    longest_pause_ms: Option<f64>,
    /// Possible reasons for the differences, and what the user can do.
    explanations: Vec<String>,
    details: Vec<String>,
}

/// Compares the final results with the accepted reactions.
pub(super) fn compare(
    rooms: &[Room],
    sent: &Sent,
    finals: &HashMap<Room, Counted>,
    circumstances: Circumstances,
) -> Verdict {
    let mut verdict = Verdict {
        late: circumstances.late,
        longest_pause_ms: circumstances.longest_pause_ms,
        ..Verdict::default()
    };
    let nothing = Counted::default();
    for room in rooms {
        let counted = finals.get(room).unwrap_or(&nothing);
        verdict.room_as_such(room, counted);
        let booked = sent
            .expected
            .keys()
            .filter(|(of, _)| of == room)
            .map(|(_, emoji)| *emoji);
        let emojis: BTreeSet<Emoji> = booked.chain(counted.counts.keys().copied()).collect();
        for emoji in emojis {
            verdict.emoji(room, emoji, sent, counted);
        }
    }
    // Reactions that the dataflow rejected as late are missing from the final results, but they are not lost, so they
    // are subtracted.
    let late = verdict.late.unwrap_or(0).min(verdict.lost);
    verdict.late = verdict.late.map(|_| late);
    verdict.lost -= late;
    verdict.exact = verdict.details.is_empty();
    verdict.explain(sent.broken, circumstances);
    verdict
}

impl Verdict {
    fn room_as_such(&mut self, room: &Room, counted: &Counted) {
        for (window, ids) in counted.windows.iter().filter(|(_, ids)| ids.len() > 1) {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let ids = ids.join(", ");
            self.details.push(format!(
                "{room}: window {} has several final results: {ids}",
                window.start
            ));
        }
        if counted.gap {
            self.details
                .push(format!("{room}: the server skipped final results"));
        }
        if counted.others > 0 {
            self.details.push(format!(
                "{room}: {} reactions were sent by other clients",
                counted.others
            ));
        }
        if !counted.complete {
            self.details.push(format!(
                "{room}: the load's last window did not become final"
            ));
        }
    }

    fn emoji(&mut self, room: &Room, emoji: Emoji, sent: &Sent, counted: &Counted) {
        let expected = sent
            .expected
            .get(&(room.clone(), emoji))
            .copied()
            .unwrap_or_default();
        let shown = counted.counts.get(&emoji).copied().unwrap_or(0);
        self.accepted += expected.accepted;
        self.unknown += expected.unknown;
        self.counted += shown;
        let missing = expected.accepted.saturating_sub(shown);
        let surplus = shown.saturating_sub(expected.accepted + expected.unknown);
        self.lost += missing;
        self.doubled += surplus;
        if missing + surplus > 0 {
            let Expected { accepted, unknown } = expected;
            let detail =
                format!("{room} {emoji}: {accepted} accepted, {unknown} unknown, {shown} counted");
            self.details.push(detail);
        }
    }

    /// Adds explanations of the differences. `broken` is the number of requests without a response.
    fn explain(&mut self, broken: u64, circumstances: Circumstances) {
        let mut because = |why: String| self.explanations.push(why);
        let Circumstances {
            stored, in_a_flush, ..
        } = circumstances;
        if self.lost > 0 {
            because(match (stored, broken) {
                (true, _) => {
                    "lost: --stored was set, so no crash may lose reactions. Either this is a defect, or \
                              the log lost data"
                        .to_owned()
                }
                (false, 0) => "lost: every request got a response, so a crash of ingest after a \
                               202 is not the reason; read the logs of ingest"
                    .to_owned(),
                (false, _) => format!(
                    "lost: {broken} requests got no response. If ingest was killed, reactions that it \
                     acknowledged by 202 may be lost: at most one flush interval for each kill (500 ms, here \
                     {in_a_flush} reactions); --stored prevents this"
                ),
            });
        }
        if self.lost > 0 && self.late.is_none() {
            because(
                "lost: some of these reactions may only be late; the dataflow's metrics would show that"
                    .to_owned(),
            );
        }
        if self.late.is_some_and(|late| late > 0) {
            because(
                "late: the dataflow rejected these reactions and wrote them to the topic `rejected`; an ingest could not \
                 write to the log for longer than --lateness"
                    .to_owned(),
            );
        }
        if self.doubled > 0 {
            because(
                "doubled: this is a defect, or another client reacted in these rooms; choose other rooms by \
                 --room"
                    .to_owned(),
            );
        }
    }

    /// Whether every accepted reaction was counted exactly once. This is also false if reactions were late, although
    /// they are reported as late and not as lost.
    pub(super) fn holds(&self) -> bool {
        self.exact
    }
}

/// Returns a sentence about the longest time between two tallies that the probe received.
pub(super) fn longest_pause(pause_ms: f64) -> String {
    let seconds = pause_ms / 1000.0;
    format!("the longest pause between two tallies was {seconds:.1} s")
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late = self.late.map_or(
            "late unknown (set --metrics-url to the dataflow's admin address)".to_owned(),
            |late| format!("{late} late"),
        );
        let (accepted, unknown, counted) = (self.accepted, self.unknown, self.counted);
        writeln!(
            f,
            "finals     {counted} reactions in final results, {accepted} accepted, {unknown} without a response"
        )?;
        writeln!(
            f,
            "           {} lost, {} doubled, {late}",
            self.lost, self.doubled
        )?;
        for detail in self.details.iter().take(LISTED) {
            writeln!(f, "           {detail}")?;
        }
        if self.details.len() > LISTED {
            writeln!(
                f,
                "           and {} more differences",
                self.details.len() - LISTED
            )?;
        }
        for explanation in &self.explanations {
            writeln!(f, "           {explanation}")?;
        }
        let verdict = match self.holds() {
            true => "every accepted reaction was counted exactly once",
            false => "the final results do NOT match the accepted reactions",
        };
        write!(f, "verdict    {verdict}")?;
        match self.longest_pause_ms {
            Some(pause_ms) => write!(f, "; {}", longest_pause(pause_ms)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::Window;

    fn fire() -> Emoji {
        Emoji::from_text("🔥").unwrap()
    }

    fn verdict(accepted: u64, unknown: u64, counted: u64, late: Option<u64>) -> Verdict {
        let circumstances = Circumstances {
            late,
            stored: false,
            in_a_flush: 50,
            longest_pause_ms: Some(7130.0),
        };
        of(accepted, unknown, counted, 0, circumstances)
    }

    fn of(
        accepted: u64,
        unknown: u64,
        counted: u64,
        broken: u64,
        circumstances: Circumstances,
    ) -> Verdict {
        let room = Room::default();
        let mut sent = Sent {
            broken,
            ..Sent::default()
        };
        let expected = Expected { accepted, unknown };
        sent.expected.insert((room.clone(), fire()), expected);
        let counted = Counted {
            counts: HashMap::from([(fire(), counted)]),
            complete: true,
            ..Counted::default()
        };
        compare(
            std::slice::from_ref(&room),
            &sent,
            &HashMap::from([(room.clone(), counted)]),
            circumstances,
        )
    }

    #[test]
    fn unknown_reactions_may_be_counted_or_not() {
        for (counted, holds) in [(9, false), (10, true), (11, true), (12, true), (13, false)] {
            assert_eq!(verdict(10, 2, counted, None).holds(), holds, "{counted}");
        }
    }

    #[test]
    fn missing_reactions_are_late_up_to_the_metric_and_lost_above_it() {
        let verdict = verdict(10, 0, 5, Some(3));
        assert_eq!((verdict.late, verdict.lost), (Some(3), 2));
        assert!(!verdict.holds());
        assert!(verdict.to_string().contains("2 lost, 0 doubled, 3 late"));
    }

    #[test]
    fn a_loss_is_explained_by_the_flags_and_the_broken_requests() {
        let explained = |stored, broken| {
            let circumstances = Circumstances {
                late: Some(0),
                stored,
                in_a_flush: 50,
                longest_pause_ms: None,
            };
            of(10, 0, 5, broken, circumstances).explanations.join(" ")
        };
        assert!(explained(true, 9).contains("no crash may lose"));
        assert!(explained(false, 0).contains("every request got a response"));
        let after_a_crash = explained(false, 9);
        assert!(
            after_a_crash.contains("9 requests got no response"),
            "{after_a_crash}"
        );
        assert!(after_a_crash.contains("50 reactions"), "{after_a_crash}");
        assert!(verdict(10, 0, 11, None).explanations[0].contains("another client"));
        let unknown = verdict(10, 0, 9, None);
        assert!(unknown.explanations[1].contains("late"), "{unknown}");
        assert!(unknown.to_string().contains("--metrics-url"), "{unknown}");
        assert!(verdict(10, 0, 10, None).explanations.is_empty());
        for counted in [10, 9] {
            let text = verdict(10, 0, counted, None).to_string();
            let pause = "; the longest pause between two tallies was 7.1 s";
            assert!(text.ends_with(pause), "{text}");
        }
    }

    #[test]
    fn a_window_with_two_finals_is_a_difference_even_if_the_sums_agree() {
        let room = Room::default();
        let mut counted = Counted {
            complete: true,
            ..Counted::default()
        };
        let window = Window {
            start: 0,
            end: 2000,
        };
        counted
            .windows
            .insert(window, vec!["0-1".parse().unwrap(), "0-2".parse().unwrap()]);
        let finals = HashMap::from([(room.clone(), counted)]);
        assert!(!compare(&[room], &Sent::default(), &finals, Circumstances::default()).holds());
    }

    #[test]
    fn a_room_without_its_last_window_is_a_difference() {
        let room = Room::default();
        assert!(
            !compare(
                &[room],
                &Sent::default(),
                &HashMap::new(),
                Circumstances::default()
            )
            .holds()
        );
    }
}
