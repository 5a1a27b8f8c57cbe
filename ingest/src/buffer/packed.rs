//! Accepted reactions, packed: they are most of what an ingest holds.
//!
//! ```text
//!  entries  [ room, ms after the first, emoji, bytes of user ] [ … ] …    24 bytes each
//!  users    u-17u-4711…                                                   one text
//! ```
//!
//! As values of their own they cost 80 bytes each and an allocation that another thread frees, which
//! left the allocator with twice as much memory as was in use.

use emostream_model::{Emoji, MAX_USER_BYTES, ParsedReaction, ReactionRef, Room};

const _: () = assert!(MAX_USER_BYTES <= u8::MAX as usize, "its length is a byte");

/// Reactions in the order of their times.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    base_ms: u64,
    entries: Vec<Entry>,
    users: String,
}

#[derive(Debug)]
struct Entry {
    room: Room,
    offset_ms: u32,
    emoji: Emoji,
    user_bytes: u8,
}

/// A reaction that is taken: valid, allowed, and for a room that is in use.
#[derive(Debug, Clone)]
pub(crate) struct Taken<'a> {
    pub(crate) room: Room,
    pub(crate) plain: ParsedReaction<'a>,
}

impl Packed {
    /// Adds reactions, all received at `now_ms`, which is not before what is there.
    pub(crate) fn extend<'a>(&mut self, taken: impl Iterator<Item = Taken<'a>>, now_ms: u64) {
        if self.entries.is_empty() {
            self.base_ms = now_ms;
        }
        let offset_ms = self.offset_ms(now_ms);
        self.entries.extend(taken.map(|Taken { room, plain }| {
            self.users.push_str(&plain.user);
            Entry {
                room,
                offset_ms,
                emoji: plain.emoji,
                user_bytes: plain.user.len() as u8,
            }
        }));
    }

    /// Adds others, none of them before what is there.
    pub(crate) fn append(&mut self, others: Self) {
        if self.entries.is_empty() {
            *self = others;
            return;
        }
        let later_ms = self.offset_ms(others.base_ms);
        self.users.push_str(&others.users);
        self.entries
            .extend(others.entries.into_iter().map(|entry| Entry {
                offset_ms: entry.offset_ms.saturating_add(later_ms),
                ..entry
            }));
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// They, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ReactionRef<'_>> {
        let mut users = &*self.users;
        self.entries.iter().map(move |entry| {
            let (user, rest) = users.split_at(usize::from(entry.user_bytes));
            users = rest;
            ReactionRef {
                user,
                emoji: entry.emoji.as_str(),
                room: entry.room.as_str(),
                at_ms: self.base_ms + u64::from(entry.offset_ms),
            }
        })
    }

    /// Nothing, in the memory of what was there; what is beyond `most` reactions of it is given back.
    pub(crate) fn emptied(mut self, most: usize) -> Self {
        self.entries.clear();
        self.users.clear();
        self.entries.shrink_to(most);
        self.users.shrink_to(most.saturating_mul(MAX_USER_BYTES));
        self
    }

    /// 49 days at most, as a batch has it.
    fn offset_ms(&self, at_ms: u64) -> u32 {
        let offset_ms = at_ms.saturating_sub(self.base_ms);
        offset_ms.min(u64::from(u32::MAX)) as u32
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Reaction, UserId};
    use proptest::{collection::vec, prelude::*};

    /// So many reactions that are taken.
    pub(crate) fn taken(count: usize) -> Vec<Taken<'static>> {
        let reaction = |_| take("u", "🔥", Room::default());
        (0..count).map(reaction).collect()
    }

    fn take(user: &str, emoji: &str, room: Room) -> Taken<'static> {
        let plain = ParsedReaction {
            user: user.to_owned().into(),
            emoji: Emoji::from_text(emoji).unwrap(),
            room: room.as_str().to_owned().into(),
            claimed_ms: None,
        };
        Taken { room, plain }
    }

    fn reactions() -> impl Strategy<Value = Vec<Reaction>> {
        let one = ("\\PC{1,30}", 0_usize..1500, "[a-z]{1,8}", 0_u64..300);
        let emojis: Vec<Emoji> = Emoji::all().collect();
        vec(one, 0..60).prop_map(move |drawn| {
            let mut at_ms = 1_764_000_000_000;
            let reaction = |(user, emoji, room, later_ms): (String, usize, String, u64)| {
                at_ms += later_ms;
                Reaction {
                    user: UserId::new(&user).unwrap(),
                    emoji: emojis[emoji],
                    room: Room::new(&room).unwrap(),
                    at_ms,
                }
            };
            drawn.into_iter().map(reaction).collect()
        })
    }

    proptest! {
        #[test]
        fn they_come_out_as_they_went_in(sent in reactions(), cuts in vec(any::<proptest::sample::Index>(), 0..5)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let mut all = Packed::default();
            for span in cuts.windows(2) {
                let mut part = Packed::default();
                for reaction in &sent[span[0]..span[1]] {
                    let one = take(reaction.user.as_str(), reaction.emoji.as_str(), reaction.room.clone());
                    part.extend([one].into_iter(), reaction.at_ms);
                }
                all.append(part);
            }
            prop_assert_eq!(all.len(), sent.len());
            prop_assert!(all.iter().eq(sent.iter().map(ReactionRef::from)));
            let emptied = all.emptied(7);
            prop_assert_eq!(emptied.iter().count(), 0);
        }
    }

    #[test]
    fn an_entry_has_the_size_that_the_drawing_says() {
        assert_eq!(size_of::<Entry>(), 24);
    }
}
