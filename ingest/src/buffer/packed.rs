//! Accepted reactions in packed form. These reactions take most of the memory of an ingest.
//!
//! ```text
//!  entries  [ room, ms after the first, emoji, bytes of user ] [ … ] …    24 bytes each
//!  users    u-17u-4711…                                                   one text
//! ```
//!
//! If each reaction were a separate value, it would take 80 bytes and an allocation, which another thread frees. In
//! that form, the allocator held twice as much memory as was in use.

use emostream_model::{Emoji, MAX_USER_BYTES, ParsedReaction, ReactionRef, Room};

const _: () = assert!(MAX_USER_BYTES <= u8::MAX as usize, "user_bytes is a u8");

/// Packed reactions in the order of their times.
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

/// A reaction that the service accepts: it is valid, its sender may send it, and its room is marked as in use.
#[derive(Debug, Clone)]
pub(crate) struct AdmittedReaction<'a> {
    pub(crate) room: Room,
    pub(crate) reaction: ParsedReaction<'a>,
}

impl Packed {
    /// Adds reactions that were all received at `now_ms`, which must not be before the time of the last reaction.
    pub(crate) fn extend<'a>(
        &mut self,
        admitted: impl Iterator<Item = AdmittedReaction<'a>>,
        now_ms: u64,
    ) {
        if self.entries.is_empty() {
            self.base_ms = now_ms;
        }
        let offset_ms = self.offset_ms(now_ms);
        self.entries
            .extend(admitted.map(|AdmittedReaction { room, reaction }| {
                self.users.push_str(&reaction.user);
                Entry {
                    room,
                    offset_ms,
                    emoji: reaction.emoji,
                    user_bytes: reaction.user.len() as u8,
                }
            }));
    }

    /// Adds the reactions of `others`, none of which may be before the last reaction of `self`.
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

    /// Returns the number of reactions.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Iterates over the reactions in their order.
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

    /// Removes all reactions. Keeps the memory of `max_reactions` reactions and frees the rest.
    pub(crate) fn cleared(mut self, max_reactions: usize) -> Self {
        self.entries.clear();
        self.users.clear();
        self.entries.shrink_to(max_reactions);
        self.users
            .shrink_to(max_reactions.saturating_mul(MAX_USER_BYTES));
        self
    }

    /// Returns the milliseconds from the first reaction to `at_ms`, limited to 32 bits (49 days), as in a batch.
    fn offset_ms(&self, at_ms: u64) -> u32 {
        let offset_ms = at_ms.saturating_sub(self.base_ms);
        offset_ms.min(u64::from(u32::MAX)) as u32
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::{Reaction, UserId};
    use proptest::{collection::vec, prelude::*};

    /// Returns `count` admitted reactions.
    pub(crate) fn admitted(count: usize) -> Vec<AdmittedReaction<'static>> {
        let reaction = |_| admit("u", "🔥", Room::default());
        (0..count).map(reaction).collect()
    }

    fn admit(user: &str, emoji: &str, room: Room) -> AdmittedReaction<'static> {
        let reaction = ParsedReaction {
            user: user.to_owned().into(),
            emoji: Emoji::from_text(emoji).unwrap(),
            room: room.as_str().to_owned().into(),
            claimed_ms: None,
        };
        AdmittedReaction { room, reaction }
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
        fn unpacked_reactions_equal_the_packed_ones(sent in reactions(), cuts in vec(any::<proptest::sample::Index>(), 0..5)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(sent.len() + 1)).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let mut all = Packed::default();
            for span in cuts.windows(2) {
                let mut part = Packed::default();
                for reaction in &sent[span[0]..span[1]] {
                    let one = admit(reaction.user.as_str(), reaction.emoji.as_str(), reaction.room.clone());
                    part.extend([one].into_iter(), reaction.at_ms);
                }
                all.append(part);
            }
            prop_assert_eq!(all.len(), sent.len());
            prop_assert!(all.iter().eq(sent.iter().map(ReactionRef::from)));
            let cleared = all.cleared(7);
            prop_assert_eq!(cleared.iter().count(), 0);
        }
    }

    #[test]
    fn an_entry_has_the_size_in_the_drawing() {
        assert_eq!(size_of::<Entry>(), 24);
    }
}
