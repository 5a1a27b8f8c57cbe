//! Crowds: generated users and reactions. The same seed gives the same reactions, so the expected tallies are known.

use emostream_model::{Emoji, Reaction, Room, UserId};
use foldhash::HashMap;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::Result;

/// Length of the windows of the dataflow, Kafka Streams and Flink.
pub(crate) const WINDOW_MS: u64 = 2_000;

/// How much older a reaction may be, at most, than the newest reaction that was written before it. The value is that of
/// an ingest that flushes twice a second.
const JITTER_MS: u64 = 500;

/// Number of words of a line.
const LINE_WORDS: u64 = 8;

/// Number of different words. Most of these words occur in each window of a backlog.
const VOCABULARY: u32 = 1000;

/// The syllables of words. A word has one syllable for each digit of its number, and the index of a syllable is that
/// digit.
const SYLLABLES: [&str; 10] = ["ba", "de", "fi", "go", "ku", "la", "me", "ni", "so", "tu"];

/// Key of a tally: the start of the window (Unix milliseconds), and a text. The text is either the room and the emoji
/// with a space between them, or a word.
pub(crate) type Key = (u64, String);

/// Expected or collected tallies.
pub(crate) type Tallies = HashMap<Key, u64>;

/// The parameters of a crowd, whose reactions are spread evenly over a span of event time.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    pub(crate) rooms: u32,
    pub(crate) emojis: u32,
    pub(crate) reactions: u64,
    pub(crate) begin_ms: u64,
    pub(crate) span_ms: u64,
    pub(crate) seed: u64,
}

/// A reaction of a crowd, with its room, emoji and user as numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) room: u32,
    pub(crate) emoji: u32,
    pub(crate) user: u32,
    pub(crate) at_ms: u64,
}

impl Crowd {
    /// Generates all reactions, in the order in which they are written.
    pub(crate) fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let mut random = SmallRng::seed_from_u64(self.seed);
        (0..self.reactions).map(move |index| {
            let due_ms = index * self.span_ms / self.reactions;
            Event {
                room: random.random_range(0..self.rooms),
                emoji: random.random_range(0..self.emojis),
                user: random.random_range(0..1_000_000),
                at_ms: self.begin_ms + due_ms + JITTER_MS - random.random_range(0..=JITTER_MS),
            }
        })
    }

    /// Generates lines of text: for each line, the numbers of its words and the event time. There is one word for each
    /// reaction.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (Vec<u32>, u64)> + '_ {
        // A line has the time of a reaction of the crowd, so that lines are out of order as much as reactions are.
        let mut random = SmallRng::seed_from_u64(self.seed + 1);
        self.events()
            .step_by(LINE_WORDS as usize)
            .map(move |event| {
                // The logarithms of the words' numbers are spread evenly, so that words are as frequent as in a real
                // text (Zipf's law).
                let mut word = || f64::from(VOCABULARY).powf(random.random()) as u32;
                ((0..LINE_WORDS).map(|_| word()).collect(), event.at_ms)
            })
    }

    /// Returns the end of the last window that has a reaction.
    pub(crate) fn end_ms(&self) -> u64 {
        window_of(self.begin_ms + self.span_ms + JITTER_MS) + WINDOW_MS
    }
}

/// Returns the start of the window that contains a time.
pub(crate) fn window_of(at_ms: u64) -> u64 {
    at_ms / WINDOW_MS * WINDOW_MS
}

/// Returns the numbers of all words that lines may contain.
pub(crate) fn vocabulary() -> impl Iterator<Item = u32> {
    1..VOCABULARY
}

/// Returns the word with this number.
pub(crate) fn word(number: u32) -> String {
    let digits = number.to_string().into_bytes();
    let syllable = |digit: u8| SYLLABLES[usize::from(digit - b'0')];
    digits.into_iter().map(syllable).collect()
}

impl Event {
    /// Encodes the reaction as the value of a plain JSON record.
    pub(crate) fn json(&self, names: &Names) -> String {
        format!(
            r#"{{"user_id":"u-{}","emoji_type":"{}","timestamp":{},"room":"{}"}}"#,
            self.user,
            names.emoji(self.emoji),
            self.at_ms,
            names.room(self.room),
        )
    }

    pub(crate) fn reaction(&self, names: &Names) -> Result<Reaction> {
        Ok(Reaction {
            user: UserId::new(&format!("u-{}", self.user)).ok_or("a user's id is too long")?,
            emoji: names.emojis[self.emoji as usize],
            room: names.rooms[self.room as usize].clone(),
            at_ms: self.at_ms,
        })
    }
}

/// The names of a crowd's rooms and emojis. The index of a name is the number of its room or emoji in [`Event`].
pub(crate) struct Names {
    rooms: Vec<Room>,
    emojis: Vec<Emoji>,
}

impl Names {
    pub(crate) fn of(crowd: &Crowd) -> Result<Names> {
        let rooms: Result<Vec<Room>, _> = (0..crowd.rooms)
            .map(|number| Room::new(&format!("match-{number}")))
            .collect();
        Ok(Names {
            rooms: rooms?,
            emojis: Emoji::all().take(crowd.emojis as usize).collect(),
        })
    }

    pub(crate) fn room(&self, number: u32) -> &str {
        self.rooms[number as usize].as_str()
    }

    pub(crate) fn emoji(&self, number: u32) -> &str {
        self.emojis[number as usize].as_str()
    }

    /// Returns the text of the key of a tally.
    pub(crate) fn key(&self, room: u32, emoji: u32) -> String {
        format!("{} {}", self.room(room), self.emoji(emoji))
    }
}
