//! Fills a topic with a crowd's reactions, and compares the results with the expected tallies.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use emostream_model::{Batch, Reaction, WindowRecord};

use crate::{
    Result,
    cluster::{Cluster, PARTITIONS, RecordWriter, ResultReader},
    crowd::{Crowd, Key, Names, Tallies, WINDOW_MS},
};

/// Number of reactions in a batch.
pub(crate) const BATCH: usize = 500;

/// Time between the end of the crowd's last window and the closing reactions. It is longer than the lateness or grace
/// period of every measured program, so the closing reactions close all windows of the crowd.
const CLOSING_DELAY_MS: u64 = 45_000;

/// Maximum time between two results. If no result arrives for this long, the collector stops, and the results that have
/// not arrived count as missing.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Plain,
    Batches,
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

/// Writes the crowd's reactions to the partitions in turn, and returns the expected tallies.
///
/// Then it writes closing reactions with a later event time to every partition, one for each room and emoji. Without
/// them the last windows of the crowd would not close, neither in the dataflow nor in Kafka Streams or Flink.
pub(crate) fn fill(
    cluster: &Cluster,
    topic: &str,
    crowd: &Crowd,
    names: &Names,
    format: Format,
) -> Result<Tallies> {
    cluster.recreate(topic, PARTITIONS)?;
    let writer = cluster.writer(50)?;
    let mut expected = Tallies::default();
    match format {
        Format::Plain => {
            for (event, partition) in crowd.events().zip((0..PARTITIONS).cycle()) {
                *expected.entry(event.key()).or_default() += 1;
                writer.write(topic, partition, event.at_ms, event.json(names).as_bytes())?;
            }
        }
        Format::Batches => {
            let mut batches = Batches {
                writer: &writer,
                topic,
                partition: 0,
                batch: Vec::new(),
            };
            for event in crowd.events() {
                *expected.entry(event.key()).or_default() += 1;
                batches.push(event.reaction(names)?)?;
            }
            batches.flush()?;
        }
    }
    write_closing_reactions(&writer, topic, crowd, names)?;
    writer.finish()?;
    Ok(expected)
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
    let at_ms = crowd.end_ms() + CLOSING_DELAY_MS;
    for partition in 0..PARTITIONS {
        for room in 0..crowd.rooms {
            for emoji in 0..crowd.emojis {
                let event = crate::crowd::Event {
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

/// Result of the comparison with the expected tallies.
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

/// Collects results until they contain all expected reactions.
pub(crate) struct ResultCollector<'a> {
    expected: &'a Tallies,
    expected_sum: u64,
    end_ms: u64,
    collected: Tallies,
    sum: u64,
    doubled: usize,
}

impl<'a> ResultCollector<'a> {
    pub(crate) fn new(expected: &'a Tallies, crowd: &Crowd) -> ResultCollector<'a> {
        ResultCollector {
            expected_sum: expected.values().sum(),
            expected,
            end_ms: crowd.end_ms(),
            collected: Tallies::default(),
            sum: 0,
            doubled: 0,
        }
    }

    fn add(&mut self, key: Key, count: u64) {
        // The window of the closing reactions is not compared, since the expected tallies do not contain it.
        if key.0 >= self.end_ms {
            return;
        }
        self.sum += count;
        self.doubled += usize::from(self.collected.insert(key, count).is_some());
    }

    /// Adds the tallies of a final that the dataflow wrote.
    pub(crate) fn add_final(&mut self, value: &[u8], names: &Names) -> Result<()> {
        let record: WindowRecord = serde_json::from_slice(value)?;
        for tally in &record.counts {
            let key = names
                .key(
                    record.window.start,
                    record.room.as_str(),
                    tally.emoji.as_str(),
                )
                .ok_or("a final of an unknown room or emoji")?;
            self.add(key, tally.count);
        }
        Ok(())
    }

    /// Adds a result that Kafka Streams or Flink wrote, in the form `start room emoji count`.
    pub(crate) fn add_peer_result(&mut self, line: &str, names: &Names) -> Result<()> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or("a short line");
        let (start_ms, room, emoji) = (word()?.parse()?, word()?, word()?);
        let key = names
            .key(start_ms, room, emoji)
            .ok_or("a tally of an unknown room or emoji")?;
        let count = word()?.parse()?;
        self.add(key, count);
        Ok(())
    }

    /// Reads results until they contain as many reactions as expected, or until no result has arrived for [`STALLED`].
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

    /// Compares the collected tallies with the expected ones.
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
