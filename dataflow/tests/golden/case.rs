//! Parses a case of the golden tests. The file `golden/README.md` describes the format.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use emostream_dataflow::Config;
use emostream_model::{Batch, Emoji, EmojiNames, ReactionRef, Room, Topics, WindowSize};

use crate::{
    T0,
    fixture::run_with,
    outcome::{Outcome, SECTIONS},
};

/// Maximum time by which the events of a batch may be ahead of the timestamp of its record. Events that are further
/// ahead do not advance the watermark.
const MAX_AHEAD_MS: u64 = 5_000;

/// A golden test: the contents of one file.
pub(crate) struct Case {
    path: PathBuf,
    settings: Settings,
    /// The steps, in order.
    pub(crate) steps: Vec<Step>,
    /// The expected output.
    pub(crate) expected: Outcome,
}

/// A step of a case.
pub(crate) enum Step {
    /// Appends these records.
    Append(Vec<Input>),
    /// Waits until all windows up to this time are final, Unix milliseconds.
    WaitFinal(u64),
    /// Waits until the live tallies contain this number of reactions.
    WaitLive(u64),
}

/// An input record.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) partition: u32,
    pub(crate) time_ms: u64,
    pub(crate) value: Vec<u8>,
    /// The greatest time in the record that counts for the watermark of its partition.
    pub(crate) observed_ms: u64,
}

/// The settings of a case, with the defaults that `golden/README.md` lists. By default no partition becomes idle, since
/// the time at which that happens depends on the speed of the test.
struct Settings {
    partitions: u32,
    window: Duration,
    lateness: Duration,
    idle: Duration,
    live: Duration,
    swarm: u64,
    span: Duration,
    top: usize,
    emojis: EmojiNames,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            partitions: 1,
            window: Duration::from_secs(2),
            lateness: Duration::from_millis(750),
            idle: Duration::from_secs(3600),
            live: Duration::from_millis(250),
            swarm: 1000,
            span: Duration::from_secs(60),
            top: 10,
            emojis: EmojiNames::default(),
        }
    }
}

impl Case {
    /// Parses the file. The error names the file and the line.
    pub(crate) fn read(path: &Path) -> Result<Case, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut case = Case {
            path: path.to_owned(),
            settings: Settings::default(),
            steps: Vec::new(),
            expected: Outcome::default(),
        };
        let mut section = None;
        for (number, line) in (1..).zip(text.lines()) {
            let taken = case.parse_line(&mut section, line);
            taken.map_err(|why| format!("{}:{number}: {why}", path.display()))?;
        }
        case.check()
            .map_err(|why| format!("{}: {why}", path.display()))?;
        Ok(case)
    }

    fn parse_line<'t>(
        &mut self,
        section: &mut Option<&'t str>,
        line: &'t str,
    ) -> Result<(), String> {
        let line = uncommented(line);
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else {
            return Ok(());
        };
        if line.starts_with(char::is_whitespace) {
            return match section {
                Some("in") => self.step(line.trim()),
                Some(name) => {
                    self.expected.expect(name, line);
                    Ok(())
                }
                None => Err("no section has begun: in, or one of the results".to_owned()),
            };
        }
        match first {
            "settings" if section.is_none() => {
                return words.try_for_each(|setting| self.settings.set(setting));
            }
            "in" if section.is_none() => *section = Some(first),
            _ if SECTIONS.contains(&first) && section.is_some() => *section = Some(first),
            _ => {
                return Err(format!(
                    "'{first}' does not belong here: settings, in, then {SECTIONS:?}"
                ));
            }
        }
        match words.next() {
            None => Ok(()),
            Some(more) => Err(format!("'{more}' behind the section's name")),
        }
    }

    fn step(&mut self, line: &str) -> Result<(), String> {
        let (first, rest) = word(line);
        if first == "wait" {
            self.steps.push(wait(rest)?);
            return Ok(());
        }
        let time_ms = T0 + milliseconds(first)?;
        let (place, rest) = word(rest);
        let (form, rest) = word(rest);
        let (value, observed_ms) = record(form, rest, time_ms)?;
        let partitions = match place {
            "p*" => 0..self.settings.partitions,
            _ => {
                let number = place.strip_prefix('p').and_then(|n| n.parse().ok());
                let number: u32 = number
                    .filter(|number| *number < self.settings.partitions)
                    .ok_or_else(|| format!("'{place}' is no partition, like p0, nor p*"))?;
                number..number + 1
            }
        };
        let inputs = partitions.map(|partition| Input {
            partition,
            time_ms,
            value: value.clone(),
            observed_ms,
        });
        match self.steps.last_mut() {
            Some(Step::Append(together)) => together.extend(inputs),
            _ => self.steps.push(Step::Append(inputs.collect())),
        }
        Ok(())
    }

    /// Checks the rules that concern the whole file: the last step, and the steps that wait for live tallies.
    fn check(&self) -> Result<(), String> {
        if !matches!(self.steps.last(), Some(Step::WaitFinal(_))) {
            return Err("the input ends with 'wait final SECONDS'".to_owned());
        }
        let last = |step: fn(&Step) -> bool| self.steps.iter().rposition(step);
        let counts = last(|step| match step {
            Step::Append(inputs) => inputs.iter().any(|input| !input.is_heartbeat()),
            _ => false,
        });
        let live = last(|step| matches!(step, Step::WaitLive(_)));
        match live {
            None if !self.expected.section("live").is_empty() => {
                Err("live results without 'wait live COUNT' are a matter of chance".to_owned())
            }
            Some(live) if counts > Some(live) => Err(
                "behind the last 'wait live' come heartbeats only, or live is a matter of chance"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Whether the case has steps that wait for live tallies. Without them live tallies are not deterministic.
    pub(crate) fn waits_for_live(&self) -> bool {
        self.steps.iter().any(|s| matches!(s, Step::WaitLive(_)))
    }

    pub(crate) fn partitions(&self) -> u32 {
        self.settings.partitions
    }

    pub(crate) fn lateness_ms(&self) -> u64 {
        self.settings.lateness.as_millis() as u64
    }

    pub(crate) fn span_ms(&self) -> u64 {
        self.settings.span.as_millis() as u64
    }

    pub(crate) fn config(&self, topics: &Topics, workers: usize) -> Config {
        let settings = &self.settings;
        let config = run_with(crate::fixture::config(topics, workers), |run| {
            run.lateness_ms = self.lateness_ms();
            run.idle_timeout = settings.idle;
        });
        Config {
            window: WindowSize::from_ms(settings.window.as_millis() as u64).unwrap(),
            live: settings.live,
            swarm_size: settings.swarm,
            trending_span: settings.span,
            trending_top: settings.top,
            emojis: settings.emojis.clone(),
            ..config
        }
    }

    /// Replaces the sections of the file that differ from `outcome`.
    pub(crate) fn rewrite(&self, outcome: &Outcome) {
        let text = fs::read_to_string(&self.path).unwrap();
        let heading = |line: &str| SECTIONS.into_iter().find(|name| uncommented(line) == *name);
        let results_at = text.lines().position(|line| heading(line).is_some());
        let before: Vec<&str> = text
            .lines()
            .take(results_at.unwrap_or(usize::MAX))
            .collect();
        let mut rewritten = before.join("\n").trim_end().to_owned() + "\n";
        for name in SECTIONS {
            let mut kept = text.lines().skip_while(|line| heading(line) != Some(name));
            let same = outcome.section(name) == self.expected.section(name);
            let section: Vec<String> = match (same, kept.next()) {
                (true, Some(first)) => {
                    let rest = kept.take_while(|line| heading(line).is_none());
                    [first].into_iter().chain(rest).map(str::to_owned).collect()
                }
                _ => outcome.written(name),
            };
            if !section.is_empty() {
                rewritten += &format!("\n{}\n", section.join("\n").trim_end());
            }
        }
        fs::write(&self.path, rewritten).unwrap();
    }
}

impl Settings {
    fn set(&mut self, setting: &str) -> Result<(), String> {
        let (name, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("'{setting}' is not NAME=VALUE"))?;
        let number = || {
            value
                .parse()
                .map_err(|_| format!("'{value}' is not a number"))
        };
        match name {
            "partitions" => self.partitions = number()? as u32,
            "window" => self.window = duration(value)?,
            "lateness" => self.lateness = duration(value)?,
            "idle" => self.idle = duration(value)?,
            "live" => self.live = duration(value)?,
            "swarm" => self.swarm = number()?,
            "span" => self.span = duration(value)?,
            "top" => self.top = number()? as usize,
            "alias" => self.emojis.add_alias(value).map_err(|e| e.to_string())?,
            _ => return Err(format!("'{name}' is no setting")),
        }
        Ok(())
    }
}

impl Input {
    fn is_heartbeat(&self) -> bool {
        Batch::decode(&self.value).is_ok_and(|batch| batch.is_empty())
    }
}

/// Returns the line without its comment. A comment begins with a `#` between blanks, or at the start of the line.
fn uncommented(line: &str) -> &str {
    let is_comment = |at: usize| {
        let (before, after) = (&line[..at], &line[at + 1..]);
        let ends =
            |text: &str, side: fn(&str) -> Option<char>| side(text).is_none_or(char::is_whitespace);
        ends(before, |text| text.chars().last()) && ends(after, |text| text.chars().next())
    };
    let comment = line.match_indices('#').find(|(at, _)| is_comment(*at));
    line[..comment.map_or(line.len(), |(at, _)| at)].trim_end()
}

/// Returns the first word, and the text after the blanks that follow it.
fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn wait(what: &str) -> Result<Step, String> {
    match word(what) {
        ("final", seconds) => Ok(Step::WaitFinal(T0 + milliseconds(seconds)?)),
        ("live", count) => {
            let count = count
                .parse()
                .map_err(|_| format!("'{count}' is no count"))?;
            Ok(Step::WaitLive(count))
        }
        (other, _) => Err(format!(
            "'wait {other}': wait final SECONDS, or wait live COUNT"
        )),
    }
}

/// Parses seconds with at most three decimals.
fn milliseconds(seconds: &str) -> Result<u64, String> {
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match (digits(whole) && digits(fraction) && fraction.len() <= 3).then(|| {
        let ms: u64 = format!("{fraction:0<3}").parse().ok()?;
        whole
            .parse::<u64>()
            .ok()?
            .checked_mul(1000)?
            .checked_add(ms)
    }) {
        Some(Some(ms)) => Ok(ms),
        _ => Err(format!("'{seconds}' are no seconds, like 2 or 0.250")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let ms = match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok(),
        None => text.strip_suffix('s').and_then(|s| milliseconds(s).ok()),
    };
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("'{text}' is no duration, like 750ms or 2s"))
}

/// Returns the value of a record, and the greatest time in it that counts for the watermark.
fn record(form: &str, rest: &str, time_ms: u64) -> Result<(Vec<u8>, u64), String> {
    match form {
        "heartbeat" if rest.is_empty() => Ok((Batch::heartbeat(time_ms), time_ms)),
        "batch" => {
            let reactions = reactions(rest, time_ms)?;
            let times = || reactions.iter().map(|reaction| reaction.at_ms);
            let (Some(oldest_ms), Some(newest_ms)) = (times().min(), times().max()) else {
                return Err("a batch without reactions is a heartbeat".to_owned());
            };
            let observed_ms = match newest_ms > time_ms + MAX_AHEAD_MS {
                true => time_ms,
                false => newest_ms,
            };
            Ok((Batch::encode(oldest_ms, reactions), observed_ms))
        }
        "plain" => match serde_json::from_str::<serde_json::Value>(rest) {
            Ok(_) => Ok((rest.as_bytes().to_vec(), time_ms)),
            Err(error) => Err(format!("'{rest}' is not JSON: {error}")),
        },
        "junk" => Ok((unescaped(rest)?, time_ms)),
        _ => Err(format!(
            "'{form} {rest}' is none of: batch ROOM EMOJI…, plain JSON, heartbeat, junk TEXT"
        )),
    }
}

/// Parses `ROOM EMOJI EMOJI×COUNT EMOJI@SECONDS …`. An unknown emoji is written as `?` and its text.
fn reactions(text: &str, time_ms: u64) -> Result<Vec<ReactionRef<'_>>, String> {
    let mut reactions = Vec::new();
    let mut room = None;
    for word in text.split_whitespace() {
        if word.is_ascii() {
            Room::validate(word).map_err(|_| format!("'{word}' is neither room nor emoji"))?;
            if let Some((unused, false)) = room.replace((word, false)) {
                return Err(format!("room {unused} without an emoji"));
            }
            continue;
        }
        let (word, at_ms) = match word.split_once('@') {
            Some((word, at)) => (word, T0 + milliseconds(at)?),
            None => (word, time_ms),
        };
        let (emoji, count) = word.split_once('×').unwrap_or((word, "1"));
        let emoji = match emoji.strip_prefix('?') {
            Some(unknown) => unknown,
            None => Emoji::from_text(emoji)
                .map_err(|e| format!("'{emoji}': {e}"))?
                .as_str(),
        };
        let count: usize = count
            .parse()
            .map_err(|_| format!("'{count}' is no count"))?;
        let (room, used) = room.get_or_insert(("default", false));
        *used = true;
        let reaction = ReactionRef {
            user: "u",
            emoji,
            room,
            at_ms,
        };
        reactions.extend(std::iter::repeat_n(reaction, count));
    }
    match room {
        Some((unused, false)) => Err(format!("room {unused} without an emoji")),
        _ => Ok(reactions),
    }
}

/// Parses text in which `\xNN` is a byte.
fn unescaped(text: &str) -> Result<Vec<u8>, String> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.ok_or_else(|| format!("'\\x{part}' begins with no byte"))?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Case, String> {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("golden-{}-{number}.txt", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        let case = Case::read(&path);
        fs::remove_file(path).unwrap();
        case
    }

    #[test]
    fn a_typo_is_named_with_its_file_and_line() {
        for (text, line, what) in [
            ("setings partitions=2", 1, "setings"),
            ("settings partition=2", 1, "'partition' is no setting"),
            ("settings lateness=2", 1, "no duration"),
            ("in\n 0.1 p1 heartbeat", 2, "'p1' is no partition"),
            ("in\n 0.1234 p0 heartbeat", 2, "no seconds"),
            ("in\n 0.1 p0 hartbeat", 2, "hartbeat"),
            (
                "in\n 0.1 p0 batch final fire",
                2,
                "room final without an emoji",
            ),
            ("in\n 0.1 p0 batch final 🔥x3", 2, "🔥x3"),
            ("in\n 0.1 p0 batch final 🔥×three", 2, "'three' is no count"),
            ("in\n 0.1 p0 plain {", 2, "not JSON"),
            ("in\n 0.1 p0 junk \\xq", 2, "no byte"),
            ("in\n # fine\n wait finals 2", 3, "finals"),
            ("in\n\nwindow", 3, "window"),
        ] {
            let error = read(text).err().unwrap();
            assert!(error.contains(&format!(".txt:{line}: ")), "{error}");
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_live_tally_that_would_be_chance_is_refused() {
        let waits = |rest: &str| read(&format!("in\n 0.1 p0 batch 🔥\n wait live 1\n{rest}"));
        assert!(waits(" 2.75 p0 heartbeat\n wait final 2").is_ok());
        let error = waits(" 2.75 p0 batch 🔥\n wait final 2").err().unwrap();
        assert!(error.contains("chance"), "{error}");
        assert!(waits(" 2.75 p0 heartbeat").is_err());
    }
}
