//! The output of a run, as lines in the format of the result sections of a case.

use std::collections::BTreeMap;

use emostream_log::{Record, read_to_end};
use emostream_model::{
    Batch, Count, Emoji, ReactionRef, Room, Tally, TotalsRecord, Trending, Window, WindowRecord,
};

use crate::{Case, Fixture, T0};

/// The names of the result sections, in the order in which a file has them.
pub(crate) const SECTIONS: [&str; 5] = ["live", "windows", "totals", "trending", "rejected"];

/// The lines of each result section. The words of a line are separated by one blank.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    sections: BTreeMap<&'static str, Vec<String>>,
    /// Whether live tallies are left out, since those of a run that was stopped early are not deterministic.
    skips_live: bool,
}

impl Outcome {
    /// Returns the outcome that the topics of a fixture contain.
    pub(crate) fn of(fixture: &Fixture, case: &Case) -> Outcome {
        let lines = [
            ("live", live(fixture)),
            ("windows", windows(fixture)),
            ("totals", totals(fixture)),
            ("trending", trending(fixture, case.span_ms())),
            ("rejected", rejected(fixture)),
        ];
        let mut outcome = Outcome::default();
        for (name, lines) in lines {
            lines.iter().for_each(|line| outcome.expect(name, line));
        }
        outcome
    }

    /// Returns the outcome without live tallies, which are not deterministic.
    pub(crate) fn without_live(mut self) -> Outcome {
        self.skips_live = true;
        self.sections.remove("live");
        self
    }

    /// Adds a line to a section.
    pub(crate) fn expect(&mut self, section: &str, line: &str) {
        let name = SECTIONS.into_iter().find(|name| *name == section).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        self.sections.entry(name).or_default().push(words.join(" "));
    }

    pub(crate) fn section(&self, name: &str) -> &[String] {
        self.sections.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the lines of a section as they are written to a file; none if the section is empty.
    pub(crate) fn written(&self, name: &str) -> Vec<String> {
        let lines = self.section(name);
        let rows: Vec<Vec<&str>> = lines
            .iter()
            .map(|line| line.splitn(3, ' ').collect())
            .collect();
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths = [width(0), width(1)];
        let row = |row: &Vec<&str>| {
            let (first, second) = (row[0], row.get(1).unwrap_or(&""));
            let rest = row.get(2).unwrap_or(&"");
            format!("  {first:0$}  {second:1$}  {rest}", widths[0], widths[1])
        };
        let heading = (!lines.is_empty()).then(|| name.to_owned());
        heading.into_iter().chain(rows.iter().map(row)).collect()
    }

    /// Returns the lines in which this outcome and the expected one differ; `None` if they are equal.
    pub(crate) fn difference(&self, expected: &Outcome) -> Option<String> {
        let mut text = String::new();
        for name in SECTIONS {
            if name == "live" && self.skips_live {
                // The live tallies of this run are not deterministic, so they are not compared.
                continue;
            }
            let (actual, expected) = (self.section(name), expected.section(name));
            if actual == expected {
                continue;
            }
            let same = |(a, b): &(&String, &String)| a == b;
            let before = actual.iter().zip(expected).take_while(same).count();
            let (actual_rest, expected_rest) = (&actual[before..], &expected[before..]);
            let backward = actual_rest.iter().rev().zip(expected_rest.iter().rev());
            let after = backward.take_while(same).count();
            text += &format!("{name}\n");
            let mut append = |mark: char, lines: &[String]| {
                lines
                    .iter()
                    .for_each(|line| text += &format!("{mark} {line}\n"));
            };
            append(' ', &actual[..before]);
            append('-', &expected_rest[..expected_rest.len() - after]);
            append('+', &actual_rest[..actual_rest.len() - after]);
            append(' ', &actual_rest[actual_rest.len() - after..]);
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Returns the number of reactions in the newest live tallies of all windows.
pub(crate) fn live_reactions(fixture: &Fixture) -> u64 {
    newest_live(fixture).values().map(|tally| tally.total).sum()
}

fn newest_live(fixture: &Fixture) -> BTreeMap<(u64, Room), WindowRecord> {
    let mut newest = BTreeMap::new();
    read(fixture, &fixture.topics.live(), &mut |record| {
        let tally: WindowRecord = parsed(record);
        assert_eq!(record.key, Some(tally.room.as_str().as_bytes()));
        assert!(tally.emitted_at.is_some(), "a live tally tells its time");
        newest.insert((tally.window.start, tally.room.clone()), tally);
    });
    newest
}

fn live(fixture: &Fixture) -> Vec<String> {
    newest_live(fixture).values().map(tally_line).collect()
}

fn windows(fixture: &Fixture) -> Vec<String> {
    let mut lines = Vec::new();
    read(fixture, &fixture.topics.windows(), &mut |record| {
        let closed: WindowRecord = parsed(record);
        assert_eq!(record.key, Some(closed.room.as_str().as_bytes()));
        assert_eq!(closed.emitted_at, None, "a final is the same at any time");
        let key = (closed.window.start, closed.room.clone());
        lines.push((key, tally_line(&closed)));
    });
    sorted(lines)
}

/// Returns the newest totals of each room. Older records are ignored, since the topic is compacted.
fn totals(fixture: &Fixture) -> Vec<String> {
    let mut newest = BTreeMap::new();
    read(fixture, &fixture.topics.totals(), &mut |record| {
        let totals: TotalsRecord = parsed(record);
        assert_eq!(record.key, Some(totals.room.as_str().as_bytes()));
        let line = format!(
            "{} {} {} = {}",
            window(totals.window),
            totals.room,
            totals.total,
            counts(&totals.counts.named)
        );
        newest.insert(totals.room, line);
    });
    newest.into_values().collect()
}

fn trending(fixture: &Fixture, expected_span_ms: u64) -> Vec<String> {
    let mut lines = Vec::new();
    read(fixture, &fixture.topics.trending(), &mut |record| {
        let trending: Trending = parsed(record);
        let key = trending.key();
        assert_eq!(record.key, Some(key.as_bytes()));
        let (span, span_ms, shown) = match &trending {
            Trending::Room(room) => (room.window, room.span_ms, counts(&room.top)),
            Trending::All(all) => {
                let room = |it: &emostream_model::RoomCount| format!("{}×{}", it.room, it.count);
                let rooms: Vec<String> = all.rooms.iter().map(room).collect();
                let shown = [counts(&all.top), joined(rooms)].join(" / ");
                (all.window, all.span_ms, shown)
            }
        };
        assert_eq!(span_ms, expected_span_ms);
        let line = format!("{} {key} {shown}", window(span));
        let across_rooms = matches!(trending, Trending::All(_));
        lines.push(((span.start, across_rooms, key.to_owned()), line));
    });
    sorted(lines)
}

fn rejected(fixture: &Fixture) -> Vec<String> {
    let mut lines = Vec::new();
    read(fixture, &fixture.topics.rejected(), &mut |record| {
        let headers = record.headers.read();
        let header = |name| {
            let header = headers.iter().find(|h| h.name == name).unwrap();
            std::str::from_utf8(&header.value).unwrap()
        };
        assert_eq!(header("topic"), fixture.topics.reactions());
        let position = (header("partition"), header("offset"));
        let key: (u32, u64) = (position.0.parse().unwrap(), position.1.parse().unwrap());
        let line = format!(
            "p{} #{} {} {} {}",
            position.0,
            position.1,
            header("reason"),
            seconds(record.time_ms),
            value(record)
        );
        lines.push((key, line));
    });
    sorted(lines)
}

/// Formats the value of a rejected record in the form in which a case writes its input.
fn value(record: Record<'_>) -> String {
    let batch = Batch::decode(record.value);
    match batch.and_then(|batch| batch.reactions()) {
        Ok(reactions) => format!("batch {}", reacted(&reactions, record.time_ms)),
        Err(_) => match std::str::from_utf8(record.value) {
            Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
            _ => record.value.escape_ascii().to_string(),
        },
    }
}

fn reacted(reactions: &[ReactionRef<'_>], time_ms: u64) -> String {
    let mut words = Vec::new();
    for of_room in reactions.chunk_by(|a, b| a.room == b.room) {
        words.push(of_room[0].room.to_string());
        for same in of_room.chunk_by(|a, b| (a.emoji, a.at_ms) == (b.emoji, b.at_ms)) {
            let (emoji, at_ms) = (same[0].emoji, same[0].at_ms);
            let count = match same.len() {
                1 => String::new(),
                count => format!("×{count}"),
            };
            let at = match at_ms == time_ms {
                true => String::new(),
                false => format!("@{}", seconds(at_ms)),
            };
            let unknown = match Emoji::from_text(emoji) {
                Ok(_) => "",
                Err(_) => "?",
            };
            words.push(format!("{unknown}{emoji}{count}{at}"));
        }
    }
    words.join(" ")
}

fn tally_line(record: &WindowRecord) -> String {
    let tallies = record.counts.iter().map(|tally: &Tally| {
        let swarms = match (tally.swarms, tally.loose == tally.count) {
            (0, true) => String::new(),
            (swarms, _) => format!(" ({swarms} swarms + {})", tally.loose),
        };
        format!("{}×{}{swarms}", tally.emoji, tally.count)
    });
    let (span, room) = (window(record.window), &record.room);
    format!(
        "{span} {room} {} = {}",
        record.total,
        joined(tallies.collect())
    )
}

fn counts(counts: &[Count]) -> String {
    let count = |it: &Count| format!("{}×{}", it.emoji, it.count);
    joined(counts.iter().map(count).collect())
}

fn joined(words: Vec<String>) -> String {
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(" "),
    }
}

fn window(window: Window) -> String {
    let short = |at_ms| {
        let seconds = seconds(at_ms);
        seconds
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    };
    format!("{}-{}", short(window.start), short(window.end))
}

/// Formats a time as seconds since [`T0`].
pub(crate) fn seconds(at_ms: u64) -> String {
    let since_ms = at_ms.checked_sub(T0).unwrap();
    format!("{}.{:03}", since_ms / 1000, since_ms % 1000)
}

fn read(fixture: &Fixture, topic: &str, each: &mut dyn FnMut(Record<'_>)) {
    read_to_end(&*fixture.log, topic, each).unwrap();
}

fn parsed<T: serde::de::DeserializeOwned>(record: Record<'_>) -> T {
    serde_json::from_slice(record.value).unwrap()
}

fn sorted<K: Ord>(mut lines: Vec<(K, String)>) -> Vec<String> {
    // The sort is stable, so lines with equal keys stay in the order of the topic. Duplicates are not removed, so that
    // a test detects them.
    lines.sort_by(|(a, _), (b, _)| a.cmp(b));
    lines.into_iter().map(|(_, line)| line).collect()
}
