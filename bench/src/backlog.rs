//! Fills a topic with a crowd's reactions, and compares the results with the expected tallies.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use emostream_model::{Batch, Reaction, WindowRecord};
use foldhash::HashMap;
use serde::Deserialize;

use crate::{
    Result,
    cluster::{Cluster, PARTITIONS, RecordWriter, ResultReader},
    crowd::{Crowd, Event, Key, Names, Tallies, WINDOW_MS, vocabulary, window_of, word},
};

/// Number of reactions in a batch.
pub(crate) const BATCH: usize = 500;

/// Time between the end of the crowd's last window and the closing records. It is longer than the lateness or grace
/// period of every measured program, so the closing records close all windows of the crowd.
const CLOSING_DELAY_MS: u64 = 45_000;

/// Maximum time between two results. If no result arrives for this long, the collector stops, and all results that have
/// not arrived count as missing.
const STALLED: Duration = Duration::from_secs(60);

/// The form of the records of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Reactions as plain JSON.
    Plain,
    /// Batches of reactions.
    Batches,
    /// Lines of text, whose words are counted.
    Lines,
}

/// Returns a crowd whose last reactions have an event time of about two minutes ago.
pub(crate) fn past_crowd(
    rooms: u32,
    emojis: u32,
    reactions: u64,
    span: Duration,
    seed: u64,
) -> Crowd {
    let span_ms = span.as_millis() as u64;
    Crowd {
        rooms,
        emojis,
        reactions,
        begin_ms: now_ms() - span_ms - 120_000,
        span_ms,
        seed,
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// A topic with a crowd's reactions or lines, and the expected tallies.
pub(crate) struct Backlog {
    pub(crate) cluster: Cluster,
    pub(crate) topic: String,
    pub(crate) format: Format,
    end_ms: u64,
    expected: Tallies,
}

impl Backlog {
    /// Writes the crowd's reactions or lines. Each record goes to the next partition in turn.
    ///
    /// Then this function writes closing records to every partition. They have a later event time, and contain every
    /// key. Without the closing records, neither EmoStream nor Kafka Streams or Flink would close the last windows of
    /// the crowd.
    pub(crate) fn fill(
        cluster: Cluster,
        topic: String,
        crowd: &Crowd,
        format: Format,
    ) -> Result<Backlog> {
        cluster.recreate(&topic, PARTITIONS)?;
        let writer = cluster.writer(50)?;
        let expected = match format {
            Format::Lines => write_lines(&writer, &topic, crowd)?,
            _ => write_reactions(&writer, &topic, crowd, format)?,
        };
        writer.finish()?;
        Ok(Backlog {
            cluster,
            topic,
            format,
            end_ms: crowd.end_ms(),
            expected,
        })
    }
}

fn write_lines(writer: &RecordWriter, topic: &str, crowd: &Crowd) -> Result<Tallies> {
    let mut expected: HashMap<(u64, u32), u64> = HashMap::default();
    for ((words, at_ms), partition) in crowd.lines().zip((0..PARTITIONS).cycle()) {
        for word in &words {
            *expected.entry((window_of(at_ms), *word)).or_default() += 1;
        }
        writer.write(topic, partition, at_ms, line(words).as_bytes())?;
    }
    let closing = line(vocabulary());
    for partition in 0..PARTITIONS {
        writer.write(topic, partition, closing_ms(crowd), closing.as_bytes())?;
    }
    let tally = |((start_ms, number), count)| ((start_ms, word(number)), count);
    Ok(expected.into_iter().map(tally).collect())
}

fn write_reactions(
    writer: &RecordWriter,
    topic: &str,
    crowd: &Crowd,
    format: Format,
) -> Result<Tallies> {
    let names = Names::of(crowd)?;
    let mut expected: HashMap<(u64, u32, u32), u64> = HashMap::default();
    let mut batches = Batches {
        writer,
        topic,
        partition: 0,
        batch: Vec::new(),
    };
    for (event, partition) in crowd.events().zip((0..PARTITIONS).cycle()) {
        let key = (window_of(event.at_ms), event.room, event.emoji);
        *expected.entry(key).or_default() += 1;
        match format {
            Format::Batches => batches.push(event.reaction(&names)?)?,
            _ => writer.write(topic, partition, event.at_ms, event.json(&names).as_bytes())?,
        }
    }
    batches.flush()?;
    write_closing_reactions(writer, topic, crowd, &names)?;
    let tally = |((start_ms, room, emoji), count)| ((start_ms, names.key(room, emoji)), count);
    Ok(expected.into_iter().map(tally).collect())
}

fn line(words: impl IntoIterator<Item = u32>) -> String {
    words.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Returns the event time of the closing records.
fn closing_ms(crowd: &Crowd) -> u64 {
    crowd.end_ms() + CLOSING_DELAY_MS
}

struct Batches<'a> {
    writer: &'a RecordWriter,
    topic: &'a str,
    partition: u32,
    batch: Vec<Reaction>,
}

impl Batches<'_> {
    fn push(&mut self, reaction: Reaction) -> Result<()> {
        self.batch.push(reaction);
        if self.batch.len() == BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<()> {
        let times = || self.batch.iter().map(|reaction| reaction.at_ms);
        if let (Some(base), Some(newest)) = (times().min(), times().max()) {
            let value = Batch::encode(base, &self.batch);
            self.writer
                .write(self.topic, self.partition, newest, &value)?;
        }
        self.partition = (self.partition + 1) % PARTITIONS;
        self.batch.clear();
        Ok(())
    }
}

fn write_closing_reactions(
    writer: &RecordWriter,
    topic: &str,
    crowd: &Crowd,
    names: &Names,
) -> Result<()> {
    let at_ms = closing_ms(crowd);
    for partition in 0..PARTITIONS {
        for room in 0..crowd.rooms {
            for emoji in 0..crowd.emojis {
                let event = Event {
                    room,
                    emoji,
                    user: 0,
                    at_ms,
                };
                writer.write(topic, partition, at_ms, event.json(names).as_bytes())?;
            }
        }
    }
    Ok(())
}

/// Result of the comparison of the collected tallies with the expected tallies.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) doubled: usize,
    pub(crate) wrong: usize,
    pub(crate) missing: usize,
}

impl Comparison {
    pub(crate) fn text(&self) -> String {
        match self {
            Comparison {
                doubled: 0,
                wrong: 0,
                missing: 0,
            } => "exact".to_owned(),
            Comparison {
                doubled,
                wrong,
                missing,
            } => {
                format!("{missing} missing, {wrong} wrong, {doubled} doubled")
            }
        }
    }
}

/// A final result of `streams/examples/word_count.rs`.
#[derive(Deserialize)]
struct WordCount {
    key: String,
    start: u64,
    count: u64,
}

/// Collects results until the results contain all expected events.
pub(crate) struct ResultCollector<'a> {
    expected: &'a Tallies,
    expected_sum: u64,
    end_ms: u64,
    collected: Tallies,
    sum: u64,
    doubled: usize,
}

impl<'a> ResultCollector<'a> {
    pub(crate) fn new(backlog: &'a Backlog) -> ResultCollector<'a> {
        ResultCollector {
            expected_sum: backlog.expected.values().sum(),
            expected: &backlog.expected,
            end_ms: backlog.end_ms,
            collected: Tallies::default(),
            sum: 0,
            doubled: 0,
        }
    }

    fn add(&mut self, key: Key, count: u64) {
        // The window of the closing records is not compared, since the expected tallies do not contain it.
        if key.0 >= self.end_ms {
            return;
        }
        self.sum += count;
        self.doubled += usize::from(self.collected.insert(key, count).is_some());
    }

    /// Adds the tallies of a final result that the dataflow wrote.
    pub(crate) fn add_final(&mut self, value: &[u8]) -> Result<()> {
        let record: WindowRecord = serde_json::from_slice(value)?;
        for tally in &record.counts {
            let key = format!("{} {}", record.room, tally.emoji);
            self.add((record.window.start, key), tally.count);
        }
        Ok(())
    }

    /// Adds a final result of the word count.
    pub(crate) fn add_word(&mut self, value: &[u8]) -> Result<()> {
        let WordCount { key, start, count } = serde_json::from_slice(value)?;
        self.add((start, key), count);
        Ok(())
    }

    /// Adds a result that Kafka Streams or Flink wrote, in the form `start room emoji count` or `start word count`.
    pub(crate) fn add_peer_result(&mut self, line: &str) -> Result<()> {
        let (start_ms, rest) = line.trim().split_once(' ').ok_or("a short line")?;
        let (key, count) = rest.rsplit_once(' ').ok_or("a short line")?;
        self.add((start_ms.parse()?, key.to_owned()), count.parse()?);
        Ok(())
    }

    /// Reads results until they contain as many events as expected, or until no result has arrived for [`STALLED`].
    /// `alive` returns an error if the measured process has ended.
    pub(crate) fn collect(
        &mut self,
        finals: &ResultReader,
        mut add: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<()>,
        mut alive: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut last_result = Instant::now();
        while self.sum < self.expected_sum && last_result.elapsed() < STALLED {
            let mut added = Ok(());
            let arrived = finals.next(Duration::from_millis(20), |key, value| {
                added = add(self, key, value)
            })?;
            added?;
            match arrived {
                true => last_result = Instant::now(),
                false => alive()?,
            }
        }
        Ok(())
    }

    /// Compares the collected tallies with the expected tallies.
    pub(crate) fn compare(&self) -> Comparison {
        let differs =
            |(key, count): &(&Key, &u64)| self.collected.get(*key).is_some_and(|it| it != *count);
        let unknown = self
            .collected
            .keys()
            .filter(|key| !self.expected.contains_key(*key))
            .count();
        Comparison {
            doubled: self.doubled,
            wrong: self.expected.iter().filter(differs).count() + unknown,
            missing: self
                .expected
                .keys()
                .filter(|key| !self.collected.contains_key(*key))
                .count(),
        }
    }
}

/// Returns the end of the window that starts at `start_ms`.
pub(crate) fn end_of(start_ms: u64) -> u64 {
    start_ms + WINDOW_MS
}
