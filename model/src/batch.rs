//! Batches: the records that one flush of an ingest writes, one for each partition of the `reactions` topic.
//!
//! ```text
//! ┌─────────┬──────────────────────── bincode 2, standard configuration ──────────────────────┐
//! │ version │ base_ms │ rooms: [str] │ emojis: [str] │ entries: [room, emoji, offset] │ users │
//! └─────────┴─────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Each room and each emoji is written once, and entries refer to it by index. This decodes several times faster than a
//! string for each reaction. The users are a separate block at the end, so that a program that only counts need not
//! decode them. A batch without entries is a heartbeat: it shows that the ingest works, and its time (`base_ms`)
//! advances the partition's watermark.

use std::collections::HashMap;

use bincode::{BorrowDecode, Encode, config};

use crate::{Emoji, ReactionRef, Room, UserId};

/// First byte of a batch. A JSON record starts with white space or `{`, so the first byte shows which of the two a
/// record is.
pub(crate) const VERSION: u8 = 1;

/// Maximum number of reactions in one batch.
pub const MAX_BATCH_REACTIONS: usize = 65_535;

/// Maximum length of an emoji that this build does not know, in bytes. All emojis of Unicode are shorter. If reactions
/// of a batch are rejected, the dataflow writes the texts of their emojis once for each window, so without this limit
/// one long text could be written many times.
const MAX_EMOJI_BYTES: usize = 64;

/// Maximum memory that decoding a batch may allocate, in bytes. It is enough for a batch of [`MAX_BATCH_REACTIONS`]
/// reactions with the longest user ids.
const MAX_DECODE_BYTES: usize = 16 << 20;

/// The encoded form of a batch, after the version byte.
#[derive(Encode, BorrowDecode)]
struct EncodedBatch<'a> {
    base_ms: u64,
    rooms: Vec<&'a str>,
    emojis: Vec<&'a str>,
    entries: Vec<Entry>,
    users: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, bincode::Decode)]
struct Entry {
    room: u16,
    emoji: u16,
    offset_ms: u32,
}

/// A decoded batch. It borrows its strings from the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    base_ms: u64,
    newest_ms: u64,
    rooms: Vec<&'a str>,
    emojis: Vec<Option<Emoji>>,
    emoji_texts: Vec<&'a str>,
    entries: Vec<Entry>,
    users: &'a [u8],
}

/// The reason why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// bincode cannot decode the bytes.
    #[error("not a batch of version {VERSION}: {0}")]
    Encoding(String),
    /// Bytes follow the batch.
    #[error("{0} bytes follow the batch")]
    Trailing(usize),
    /// A text in the list of rooms is not the name of a room.
    #[error("room {0:?} is not a room's name")]
    Room(String),
    /// A text in the list of emojis is empty or too long, so it is not an emoji of any build.
    #[error("{0:?} is not the text of an emoji")]
    Emoji(String),
    /// An entry's index is outside the list of rooms or of emojis.
    #[error("entry {0} refers to a room or an emoji that the batch does not list")]
    Reference(usize),
    /// A time does not fit into 64 bits.
    #[error("a time in the batch exceeds 64 bits")]
    Time,
    /// There are more or fewer users than entries, or a user id is not valid.
    #[error("the batch's users do not match its entries")]
    Users,
}

impl<'a> Batch<'a> {
    /// Encodes `reactions`, whose event times are `base_ms` or later, as the value of a record. Without reactions the
    /// result is a heartbeat at `base_ms`.
    ///
    /// An event time before `base_ms` is set to `base_ms`, and an event time more than 2³² ms after it is set to that
    /// limit. This does not change correct times, since a flush spans less than a second. Reactions after the first
    /// [`MAX_BATCH_REACTIONS`] are left out.
    pub fn encode<'r, R: Into<ReactionRef<'r>>>(
        base_ms: u64,
        reactions: impl IntoIterator<Item = R>,
    ) -> Vec<u8> {
        let reactions = reactions.into_iter().take(MAX_BATCH_REACTIONS);
        let mut rooms = Dictionary::default();
        let mut emojis = Dictionary::default();
        let count = reactions.size_hint().0;
        let mut entries = Vec::with_capacity(count);
        let mut users = Vec::with_capacity(count);
        for reaction in reactions.map(Into::into) {
            let offset_ms = reaction.at_ms.saturating_sub(base_ms);
            entries.push(Entry {
                room: rooms.index_of(reaction.room),
                emoji: emojis.index_of(reaction.emoji),
                offset_ms: offset_ms.min(u64::from(u32::MAX)) as u32,
            });
            users.push(reaction.user);
        }
        let encoded = EncodedBatch {
            base_ms,
            rooms: rooms.texts,
            emojis: emojis.texts,
            entries,
            users: &encode(&users, Vec::new()),
        };
        encode(&encoded, vec![VERSION])
    }

    /// Encodes a heartbeat at `now_ms`.
    pub fn heartbeat(now_ms: u64) -> Vec<u8> {
        Batch::encode(now_ms, [] as [ReactionRef<'_>; 0])
    }

    /// Decodes a record's value, which begins with the version byte. Does not decode the users: [`Batch::reactions`]
    /// decodes and validates them.
    ///
    /// An emoji that this build does not know is not an error. An ingest of another build may have written it, and the
    /// other reactions of the batch must still be counted.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, BatchError> {
        let body = match bytes.split_first() {
            Some((&VERSION, body)) => body,
            Some((other, _)) => return Err(BatchError::Encoding(format!("version {other}"))),
            None => return Err(BatchError::Encoding("no bytes".to_owned())),
        };
        let encoded: EncodedBatch<'a> = decode(body)?;
        if let Some(room) = encoded
            .rooms
            .iter()
            .find(|room| Room::validate_record(room).is_err())
        {
            return Err(BatchError::Room(quote(room)));
        }
        let emoji = |text: &&str| match Emoji::from_text(text) {
            Ok(emoji) => Ok(Some(emoji)),
            Err(_) if (1..=MAX_EMOJI_BYTES).contains(&text.len()) => Ok(None),
            Err(_) => Err(BatchError::Emoji(quote(text))),
        };
        let batch = Batch {
            base_ms: encoded.base_ms,
            newest_ms: newest_ms(&encoded)?,
            emojis: encoded.emojis.iter().map(emoji).collect::<Result<_, _>>()?,
            emoji_texts: encoded.emojis,
            rooms: encoded.rooms,
            entries: encoded.entries,
            users: encoded.users,
        };
        let dangling = batch.entries.iter().position(|entry| {
            usize::from(entry.room) >= batch.rooms.len()
                || usize::from(entry.emoji) >= batch.emojis.len()
        });
        dangling.map_or(Ok(batch), |at| Err(BatchError::Reference(at)))
    }

    /// Returns the time to which the offsets of the entries are relative, in Unix milliseconds. For a heartbeat it is
    /// the time when the heartbeat was written.
    pub fn base_ms(&self) -> u64 {
        self.base_ms
    }

    /// Returns the greatest event time of the batch, in Unix milliseconds; for a heartbeat, its time.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms
    }

    /// Returns the names of the rooms to which entries refer. [`Room::from_record`] accepts each of them.
    pub fn rooms(&self) -> &[&'a str] {
        &self.rooms
    }

    /// Returns the emojis to which entries refer; `None` for an emoji that this build does not know.
    pub fn emojis(&self) -> &[Option<Emoji>] {
        &self.emojis
    }

    /// Returns the texts of the emojis to which entries refer, as they were written, in the order of [`Batch::emojis`].
    pub fn emoji_texts(&self) -> &[&'a str] {
        &self.emoji_texts
    }

    /// Returns the number of reactions.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the batch is a heartbeat.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Iterates over the reactions: index of the room, index of the emoji, event time in Unix milliseconds.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (usize, usize, u64)> + '_ {
        self.entries.iter().map(|entry| {
            let at_ms = self.base_ms + u64::from(entry.offset_ms);
            (usize::from(entry.room), usize::from(entry.emoji), at_ms)
        })
    }

    /// Decodes the reactions with their users, in the order of [`Batch::entries`].
    pub fn reactions(&self) -> Result<Vec<ReactionRef<'a>>, BatchError> {
        let users: Vec<&'a str> = decode(self.users)?;
        if users.len() != self.entries.len() || !users.iter().all(|user| UserId::is_valid(user)) {
            return Err(BatchError::Users);
        }
        let reaction = |((room, emoji, at_ms), user)| ReactionRef {
            user,
            emoji: self.emoji_texts[emoji],
            room: self.rooms[room],
            at_ms,
        };
        Ok(self.entries().zip(users).map(reaction).collect())
    }
}

fn newest_ms(encoded: &EncodedBatch<'_>) -> Result<u64, BatchError> {
    let offset_ms = encoded.entries.iter().map(|entry| entry.offset_ms).max();
    encoded
        .base_ms
        .checked_add(u64::from(offset_ms.unwrap_or(0)))
        .ok_or(BatchError::Time)
}

/// Assigns an index to each distinct text, in order of first occurrence.
#[derive(Default)]
struct Dictionary<'a> {
    texts: Vec<&'a str>,
    indices: HashMap<&'a str, u16>,
}

impl<'a> Dictionary<'a> {
    fn index_of(&mut self, text: &'a str) -> u16 {
        *self.indices.entry(text).or_insert_with(|| {
            self.texts.push(text);
            // The cast is exact: there are at most MAX_BATCH_REACTIONS texts, one for each reaction.
            (self.texts.len() - 1) as u16
        })
    }
}

fn encode<T: Encode>(value: &T, mut bytes: Vec<u8>) -> Vec<u8> {
    let written = bincode::encode_into_std_write(value, &mut bytes, config::standard());
    written.expect("a batch can always be encoded into memory");
    bytes
}

fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, BatchError> {
    let limited = config::standard().with_limit::<MAX_DECODE_BYTES>();
    let (value, read) = bincode::borrow_decode_from_slice(bytes, limited)
        .map_err(|error| BatchError::Encoding(error.to_string()))?;
    match bytes.len() - read {
        0 => Ok(value),
        left => Err(BatchError::Trailing(left)),
    }
}

fn quote(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::Reaction;
    use proptest::prelude::*;

    /// A reaction that owns its texts: time, user, room, emoji.
    type Owned = (u64, String, String, String);

    /// Reactions, some of them with emojis that this build does not know.
    fn reactions() -> impl Strategy<Value = Vec<Owned>> {
        let known = (0_usize..1500).prop_map(|id| Emoji::all().nth(id).unwrap().to_string());
        let reaction = (
            1_764_000_000_000_u64..1_764_000_001_000,
            "[a-z]{1,9}",
            "[A-Za-z0-9._~-]{1,8}",
            prop_oneof![known, "[新年\"x]{1,4}"],
        );
        proptest::collection::vec(reaction, 0..50)
    }

    fn borrowed(reactions: &[Owned]) -> Vec<ReactionRef<'_>> {
        let reactions = reactions.iter();
        let borrowed = reactions.map(|(at_ms, user, room, emoji)| ReactionRef {
            user,
            emoji,
            room,
            at_ms: *at_ms,
        });
        borrowed.collect()
    }

    proptest! {
        #[test]
        fn a_batch_is_read_back_as_it_was_written(reactions in reactions()) {
            let reactions = borrowed(&reactions);
            let bytes = Batch::encode(1_764_000_000_000, reactions.iter().copied());
            let batch = Batch::decode(&bytes).unwrap();
            prop_assert_eq!(batch.reactions().unwrap(), reactions.clone());
            let newest = reactions.iter().map(|r| r.at_ms).max().unwrap_or(1_764_000_000_000);
            prop_assert_eq!(batch.newest_ms(), newest);
            for ((_, emoji, _), sent) in batch.entries().zip(&reactions) {
                prop_assert_eq!(batch.emojis()[emoji], Emoji::from_text(sent.emoji).ok());
            }
        }

        #[test]
        fn a_part_of_a_batch_loses_nothing(reactions in reactions(), chosen in any::<u64>()) {
            let bytes = Batch::encode(1_764_000_000_000, borrowed(&reactions));
            let all = Batch::decode(&bytes).unwrap().reactions().unwrap();
            let indices = (0..all.len()).filter(|index| (chosen >> index) & 1 == 1);
            let part: Vec<ReactionRef<'_>> = indices.map(|index| all[index]).collect();
            let bytes = Batch::encode(1_764_000_000_000, part.iter().copied());
            prop_assert_eq!(Batch::decode(&bytes).unwrap().reactions().unwrap(), part);
        }

        #[test]
        fn any_bytes_give_a_batch_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [bytes.clone(), [&[VERSION], &bytes[..]].concat()] {
                if let Ok(batch) = Batch::decode(&bytes) {
                    let _ = batch.reactions();
                }
            }
        }

        #[test]
        fn a_damaged_batch_gives_a_batch_or_an_error(
            reactions in reactions(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut bytes = Batch::encode(1_764_000_000_000, borrowed(&reactions));
            // Prefixes are checked before the batch is damaged, since a prefix of a damaged batch may be valid.
            prop_assert!(Batch::decode(&bytes[..cut.index(bytes.len())]).is_err());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(batch) = Batch::decode(&bytes) {
                let _ = batch.reactions();
            }
        }
    }

    #[test]
    fn a_heartbeat_has_a_time_and_no_reactions() {
        let bytes = Batch::heartbeat(1_764_000_000_000);
        let batch = Batch::decode(&bytes).unwrap();
        assert!(batch.is_empty());
        assert_eq!(batch.newest_ms(), 1_764_000_000_000);
        assert!(bytes.len() < 20, "a heartbeat is small: {}", bytes.len());
    }

    /// An ingest of an earlier version, which accepts the room `..`, may still run. Its reactions to that room must not
    /// make reactions to other rooms unreadable.
    #[test]
    fn a_room_that_is_not_accepted_any_more_does_not_make_a_batch_invalid() {
        let reactions = ["..", "match-7"].map(|room| Reaction {
            user: UserId::new("u").unwrap(),
            emoji: Emoji::from_text("🔥").unwrap(),
            room: Room::from_record(room).unwrap(),
            at_ms: 1_764_000_000_000,
        });
        let bytes = Batch::encode(1_764_000_000_000, &reactions);
        assert_eq!(
            Batch::decode(&bytes).unwrap().reactions().unwrap(),
            reactions.each_ref().map(ReactionRef::from)
        );
    }

    #[test]
    fn a_wrong_length_is_an_error_before_any_large_allocation() {
        let mut bytes = vec![VERSION, 0];
        bytes.extend([253, 255, 255, 255, 255, 255, 255, 255, 127]);
        assert!(matches!(
            Batch::decode(&bytes),
            Err(BatchError::Encoding(_))
        ));
    }

    #[test]
    fn every_defect_has_its_error() {
        fn encoded(rooms: Vec<&str>, emojis: Vec<&str>, base_ms: u64) -> Vec<u8> {
            let entries = vec![Entry {
                room: 0,
                emoji: 0,
                offset_ms: 1,
            }];
            encode(
                &EncodedBatch {
                    base_ms,
                    rooms,
                    emojis,
                    entries,
                    users: &[0],
                },
                vec![VERSION],
            )
        }
        let decode = |bytes: &[u8]| Batch::decode(bytes).map(|_| ()).unwrap_err();
        assert!(matches!(decode(&[]), BatchError::Encoding(_)));
        assert!(matches!(decode(&[9, 1, 2]), BatchError::Encoding(_)));
        assert_eq!(
            decode(&encoded(vec!["a b"], vec!["🔥"], 0)),
            BatchError::Room("a b".into())
        );
        let long = "x".repeat(MAX_EMOJI_BYTES + 1);
        for emoji in ["", long.as_str()] {
            assert_eq!(
                decode(&encoded(vec!["a"], vec![emoji], 0)),
                BatchError::Emoji(emoji.into())
            );
        }
        assert_eq!(
            decode(&encoded(vec![], vec!["🔥"], 0)),
            BatchError::Reference(0)
        );
        assert_eq!(
            decode(&encoded(vec!["a"], vec![], 0)),
            BatchError::Reference(0)
        );
        assert_eq!(
            decode(&encoded(vec!["a"], vec!["🔥"], u64::MAX)),
            BatchError::Time
        );
        let users = encoded(vec!["a"], vec!["🔥"], 0);
        assert_eq!(
            Batch::decode(&users).unwrap().reactions(),
            Err(BatchError::Users)
        );
        let trailing = [Batch::heartbeat(0), vec![7]].concat();
        assert_eq!(decode(&trailing), BatchError::Trailing(1));
    }
}
