//! Fills a topic from a crowd, and compares what came out with what must.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use emostream_model::{Batch, Reaction, WindowRecord};

use crate::{
    Outcome,
    cluster::{Cluster, Filler, Finals, PARTITIONS},
    crowd::{Crowd, Key, Names, Tallies, WINDOW_MS},
};

/// Reactions of one of our batches.
pub(crate) const BATCH: usize = 500;

/// How far behind the crowd's end the closers are: past everybody's grace.
const CLOSERS_BEHIND_MS: u64 = 45_000;

/// A backlog without news for so long is done, or will never be.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Plain,
    Batches,
}

/// A crowd that ended two minutes ago.
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

/// Writes the crowd, one partition after the other in turn, and behind it the closers: reactions of
/// every room and emoji in every partition, without which nobody's last windows close.
pub(crate) fn fill(
    cluster: &Cluster,
    topic: &str,
    crowd: &Crowd,
    names: &Names,
    format: Format,
) -> Outcome<Tallies> {
    cluster.renew(topic, PARTITIONS)?;
    let filler = cluster.filler(50)?;
    let mut truth = Tallies::default();
    match format {
        Format::Plain => {
            for (tap, partition) in crowd.taps().zip((0..PARTITIONS).cycle()) {
                *truth.entry(tap.key()).or_default() += 1;
                filler.write(topic, partition, tap.at_ms, tap.json(names).as_bytes())?;
            }
        }
        Format::Batches => {
            let mut batches = Batches {
                filler: &filler,
                topic,
                partition: 0,
                batch: Vec::new(),
            };
            for tap in crowd.taps() {
                *truth.entry(tap.key()).or_default() += 1;
                batches.push(tap.reaction(names)?)?;
            }
            batches.flush()?;
        }
    }
    write_closers(&filler, topic, crowd, names)?;
    filler.finish()?;
    Ok(truth)
}

struct Batches<'a> {
    filler: &'a Filler,
    topic: &'a str,
    partition: u32,
    batch: Vec<Reaction>,
}

impl Batches<'_> {
    fn push(&mut self, reaction: Reaction) -> Outcome<()> {
        self.batch.push(reaction);
        if self.batch.len() == BATCH {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Outcome<()> {
        let times = || self.batch.iter().map(|reaction| reaction.at_ms);
        if let (Some(base), Some(newest)) = (times().min(), times().max()) {
            let value = Batch::encode(base, &self.batch);
            self.filler
                .write(self.topic, self.partition, newest, &value)?;
        }
        self.partition = (self.partition + 1) % PARTITIONS;
        self.batch.clear();
        Ok(())
    }
}

fn write_closers(filler: &Filler, topic: &str, crowd: &Crowd, names: &Names) -> Outcome<()> {
    let at_ms = crowd.end_ms() + CLOSERS_BEHIND_MS;
    for partition in 0..PARTITIONS {
        for room in 0..crowd.rooms {
            for emoji in 0..crowd.emojis {
                let tap = crate::crowd::Tap {
                    room,
                    emoji,
                    user: 0,
                    at_ms,
                };
                filler.write(topic, partition, at_ms, tap.json(names).as_bytes())?;
            }
        }
    }
    Ok(())
}

/// What came out, against the truth.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) doubled: usize,
    pub(crate) wrong: usize,
    pub(crate) missing: usize,
}

impl Verdict {
    pub(crate) fn text(&self) -> String {
        match self {
            Verdict {
                doubled: 0,
                wrong: 0,
                missing: 0,
            } => "exact".to_owned(),
            Verdict {
                doubled,
                wrong,
                missing,
            } => {
                format!("{missing} missing, {wrong} wrong, {doubled} doubled")
            }
        }
    }
}

/// Gathers results until every reaction of the truth is in them.
pub(crate) struct Gathering<'a> {
    truth: &'a Tallies,
    expected: u64,
    end_ms: u64,
    gathered: Tallies,
    sum: u64,
    doubled: usize,
}

impl<'a> Gathering<'a> {
    pub(crate) fn new(truth: &'a Tallies, crowd: &Crowd) -> Gathering<'a> {
        Gathering {
            expected: truth.values().sum(),
            truth,
            end_ms: crowd.end_ms(),
            gathered: Tallies::default(),
            sum: 0,
            doubled: 0,
        }
    }

    fn add(&mut self, key: Key, count: u64) {
        // The closers' own window.
        if key.0 >= self.end_ms {
            return;
        }
        self.sum += count;
        self.doubled += usize::from(self.gathered.insert(key, count).is_some());
    }

    /// Takes one of our finals in.
    pub(crate) fn ours(&mut self, value: &[u8], names: &Names) -> Outcome<()> {
        let record: WindowRecord = serde_json::from_slice(value)?;
        for tally in &record.counts {
            let key = names
                .key(
                    record.window.start,
                    record.room.as_str(),
                    tally.emoji.as_str(),
                )
                .ok_or("a final of nobody's room")?;
            self.add(key, tally.count);
        }
        Ok(())
    }

    /// Takes a line of a peer in: `start room emoji count`.
    pub(crate) fn line(&mut self, line: &str, names: &Names) -> Outcome<()> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().ok_or("a short line");
        let (start_ms, room, emoji) = (word()?.parse()?, word()?, word()?);
        let key = names
            .key(start_ms, room, emoji)
            .ok_or("a tally of nobody's room")?;
        let count = word()?.parse()?;
        self.add(key, count);
        Ok(())
    }

    /// Reads until all is there, or nothing comes any more.
    pub(crate) fn gather(
        &mut self,
        finals: &Finals,
        mut take: impl FnMut(&mut Self, &[u8], &[u8]) -> Outcome<()>,
        mut alive: impl FnMut() -> Outcome<()>,
    ) -> Outcome<()> {
        let mut news = Instant::now();
        while self.sum < self.expected && news.elapsed() < STALLED {
            let mut taken = Ok(());
            let came = finals.next(Duration::from_millis(20), |key, value| {
                taken = take(self, key, value)
            })?;
            taken?;
            match came {
                true => news = Instant::now(),
                false => alive()?,
            }
        }
        Ok(())
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let differs =
            |(key, count): &(&Key, &u64)| self.gathered.get(*key).is_some_and(|it| it != *count);
        let unknown = self
            .gathered
            .keys()
            .filter(|key| !self.truth.contains_key(*key))
            .count();
        Verdict {
            doubled: self.doubled,
            wrong: self.truth.iter().filter(differs).count() + unknown,
            missing: self
                .truth
                .keys()
                .filter(|key| !self.gathered.contains_key(*key))
                .count(),
        }
    }
}

/// The window's end, for those who measure from it.
pub(crate) fn end_of(start_ms: u64) -> u64 {
    start_ms + WINDOW_MS
}
