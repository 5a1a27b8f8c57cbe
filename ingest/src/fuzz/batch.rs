//! Fuzz test of the batch decoder with damaged batches.

use emostream_model::{Batch, Emoji, Reaction, ReactionRef, Room, UserId};
use proptest::{collection::vec, prelude::*};

use super::{damage::damaged, fuzz};

const BASE_MS: u64 = 1_764_000_000_000;

fn reactions() -> impl Strategy<Value = Vec<Reaction>> {
    let one = (
        0_u64..1000,
        "\\PC{1,9}",
        "[A-Za-z0-9._~-]{1,8}",
        0_usize..1500,
    );
    let reaction = one.prop_map(|(offset_ms, user, room, emoji)| Reaction {
        user: UserId::new(&user).unwrap(),
        emoji: Emoji::all().nth(emoji).unwrap(),
        room: Room::from_record(&room).unwrap(),
        at_ms: BASE_MS + offset_ms,
    });
    vec(reaction, 0..30)
}

#[test]
fn a_damaged_batch_is_refused_or_valid() {
    let whole = reactions().prop_map(|reactions| {
        let bytes = Batch::encode(BASE_MS, &reactions);
        (reactions, bytes)
    });
    fuzz("batch", damaged(whole), |(sent, bytes, intact)| {
        let decoded = Batch::decode(&bytes);
        if intact {
            let sent: Vec<ReactionRef<'_>> = sent.iter().map(ReactionRef::from).collect();
            prop_assert_eq!(decoded.clone().unwrap().reactions().unwrap(), sent);
        }
        let Ok(batch) = decoded else {
            return Ok(());
        };
        prop_assert_eq!(batch.entries().len(), batch.len());
        for (room, emoji, at_ms) in batch.entries() {
            prop_assert!(Room::from_record(batch.rooms()[room]).is_ok());
            let text = batch.emoji_texts()[emoji];
            prop_assert_eq!(batch.emojis()[emoji], Emoji::from_text(text).ok());
            prop_assert!((batch.base_ms()..=batch.newest_ms()).contains(&at_ms));
        }
        // If a decoded batch is encoded again, decoding it gives the same reactions.
        if let Ok(reactions) = batch.reactions() {
            let again = Batch::encode(batch.base_ms(), reactions.iter().copied());
            let again = Batch::decode(&again).unwrap();
            prop_assert_eq!(again.reactions().unwrap(), reactions);
            prop_assert_eq!(again.newest_ms(), batch.newest_ms());
        }
        Ok(())
    });
}
