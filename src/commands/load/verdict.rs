//! The verdict: what the finals show against what was accepted. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use emostream_model::{Emoji, Room};

use super::{
    finals::Counted,
    ledger::{Expected, Sent},
};

/// The most differences listed.
const LISTED: usize = 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    accepted: u64,
    unknown: u64,
    counted: u64,
    lost: u64,
    doubled: u64,
    late: Option<u64>,
    details: Vec<String>,
}

/// Compares. `late`: how many reactions the dataflow rejected as late meanwhile, if known.
pub(super) fn compare(
    rooms: &[Room],
    sent: &Sent,
    finals: &HashMap<Room, Counted>,
    late: Option<u64>,
) -> Verdict {
    let mut verdict = Verdict {
        late,
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
    // What the dataflow rejected as late is missing from the finals, but it is not lost.
    let late = verdict.late.unwrap_or(0).min(verdict.lost);
    verdict.late = verdict.late.map(|_| late);
    verdict.lost -= late;
    verdict
}

impl Verdict {
    fn room_as_such(&mut self, room: &Room, counted: &Counted) {
        for (window, ids) in counted.windows.iter().filter(|(_, ids)| ids.len() > 1) {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let ids = ids.join(", ");
            self.details
                .push(format!("{room}: window {} has finals {ids}", window.start));
        }
        if counted.gap {
            self.details
                .push(format!("{room}: the server skipped finals"));
        }
        if counted.others > 0 {
            self.details.push(format!(
                "{room}: somebody else reacted {} times",
                counted.others
            ));
        }
        if !counted.complete {
            self.details
                .push(format!("{room}: the last window never became final"));
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

    /// Whether every accepted reaction was counted once. A late one was not, but it was not silently
    /// dropped either: it makes the verdict fail, in other words.
    pub(super) fn holds(&self) -> bool {
        self.details.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late = self
            .late
            .map_or("late unknown (no metrics)".to_owned(), |late| {
                format!("{late} late")
            });
        let (accepted, unknown, counted) = (self.accepted, self.unknown, self.counted);
        writeln!(
            f,
            "finals     {counted} counted of {accepted} accepted, {unknown} without an answer"
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
        match self.holds() {
            true => write!(
                f,
                "verdict    every accepted reaction was counted exactly once"
            ),
            false => write!(f, "verdict    the finals are NOT what was accepted"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::Window;

    fn fire() -> Emoji {
        Emoji::from_text("🔥").unwrap()
    }

    fn verdict(accepted: u64, unknown: u64, counted: u64, late: Option<u64>) -> Verdict {
        let room = Room::default();
        let mut sent = Sent::default();
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
            late,
        )
    }

    #[test]
    fn unknown_answers_widen_what_may_be_counted() {
        for (counted, holds) in [(9, false), (10, true), (11, true), (12, true), (13, false)] {
            assert_eq!(verdict(10, 2, counted, None).holds(), holds, "{counted}");
        }
    }

    #[test]
    fn what_is_missing_is_late_as_far_as_the_dataflow_says_so_and_lost_beyond() {
        let verdict = verdict(10, 0, 5, Some(3));
        assert_eq!((verdict.late, verdict.lost), (Some(3), 2));
        assert!(!verdict.holds());
        assert!(verdict.to_string().contains("2 lost, 0 doubled, 3 late"));
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
        assert!(!compare(&[room], &Sent::default(), &finals, None).holds());
    }

    #[test]
    fn a_room_without_its_last_window_is_a_difference() {
        let room = Room::default();
        assert!(!compare(&[room], &Sent::default(), &HashMap::new(), None).holds());
    }
}
