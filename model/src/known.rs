//! Decoders of lists with an entry for each emoji. Another build of the program may have written the list, and may know
//! emojis that this build does not know.
//!
//! Entries with an unknown emoji are left out. The record's total still contains their counts, so a frame that is made
//! from the record includes these counts in its `others`.

use std::borrow::Cow;

use bincode::{BorrowDecode, de::BorrowDecoder, error::DecodeError};
use serde::{Deserialize, Deserializer, de::Error};

use crate::{Count, Emoji, Tally};

/// An entry of a list, for one emoji.
pub(crate) trait ByEmoji<'de, C>: Sized {
    /// The fields after the emoji.
    type Rest: BorrowDecode<'de, C>;

    fn new(emoji: Emoji, rest: Self::Rest) -> Self;
}

impl<'de, C> ByEmoji<'de, C> for Tally {
    type Rest = (u64, u64, u64);

    fn new(emoji: Emoji, (count, swarms, loose): Self::Rest) -> Self {
        Self {
            emoji,
            count,
            swarms,
            loose,
        }
    }
}

impl<'de, C> ByEmoji<'de, C> for Count {
    type Rest = u64;

    fn new(emoji: Emoji, count: u64) -> Self {
        Self { emoji, count }
    }
}

/// An entry; `None` if this build does not know its emoji.
struct Entry<T>(Option<T>);

impl<'de, C, T: ByEmoji<'de, C>> BorrowDecode<'de, C> for Entry<T> {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        from: &mut D,
    ) -> Result<Self, DecodeError> {
        let (text, rest) = <(&str, T::Rest)>::borrow_decode(from)?;
        let emoji = Emoji::from_text(text).ok();
        Ok(Self(emoji.map(|emoji| T::new(emoji, rest))))
    }
}

/// Decodes a list from bincode, without entries of unknown emojis.
pub(crate) fn decode<'de, C, T, D>(from: &mut D) -> Result<Vec<T>, DecodeError>
where
    T: ByEmoji<'de, C> + 'de,
    D: BorrowDecoder<'de, Context = C>,
{
    let entries = Vec::<Entry<T>>::borrow_decode(from)?;
    Ok(entries.into_iter().filter_map(|entry| entry.0).collect())
}

/// Implements `BorrowDecode` for a record. The arguments are the record's fields in their order. The field between the
/// semicolons is a list with an entry for each emoji; [`decode`] decodes this list.
macro_rules! decoded {
    ($record:ident: $($before:ident),+; $list:ident; $($after:ident),*) => {
        impl<'de, C> bincode::BorrowDecode<'de, C> for $record {
            fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(
                from: &mut D,
            ) -> Result<Self, bincode::error::DecodeError> {
                Ok(Self {
                    $($before: bincode::BorrowDecode::borrow_decode(from)?,)+
                    $list: $crate::known::decode(from)?,
                    $($after: bincode::BorrowDecode::borrow_decode(from)?,)*
                })
            }
        }
    };
}
pub(crate) use decoded;

/// Deserializes a list from JSON, without entries of unknown emojis.
pub(crate) fn deserialize<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Entry<'a, T> {
        Known(T),
        Unknown {
            #[serde(borrow)]
            emoji: Cow<'a, str>,
        },
    }
    let entries = Vec::<Entry<'de, T>>::deserialize(from)?;
    let known = entries.into_iter().filter_map(|entry| match entry {
        Entry::Known(known) => Some(Ok(known)),
        Entry::Unknown { emoji } if Emoji::from_text(&emoji).is_err() => None,
        Entry::Unknown { .. } => Some(Err(D::Error::custom(
            "an entry of a known emoji has no `count`",
        ))),
    });
    known.collect()
}
