//! The counts of a totals record, one for each emoji. They include the counts of emojis that this build of the program
//! does not know, and which a dataflow of another build has counted.
//!
//! A new totals record of a room replaces the record before it. If the new record left out the counts of unknown
//! emojis, these counts would be lost.

use std::{borrow::Cow, iter};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Count, Emoji};

/// The cumulative counts of a room. Both lists have the greatest count first, equal counts by the emoji's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TotalCounts {
    /// Counts of the emojis that this build knows.
    pub named: Vec<Count>,
    /// Counts of the emojis that this build does not know; usually empty.
    pub unnamed: Vec<UnnamedCount>,
}

/// Count of an emoji that this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnnamedCount {
    /// The emoji's text.
    pub emoji: Box<str>,
    /// The count of the emoji.
    pub count: u64,
}

impl TotalCounts {
    /// Iterates over the counts of both lists with the emojis' texts, in the order in which each list is sorted.
    pub fn entries(&self) -> impl Iterator<Item = (&str, u64)> {
        let named = self.named.iter().map(|it| (it.emoji.as_str(), it.count));
        let unnamed = self.unnamed.iter().map(|it| (&*it.emoji, it.count));
        let (mut named, mut unnamed) = (named.peekable(), unnamed.peekable());
        iter::from_fn(move || {
            let other = unnamed.peek().copied();
            let goes_first = |(emoji, count): &(&str, u64)| {
                other.is_none_or(|(unnamed, of_unnamed)| (*count, unnamed) >= (of_unnamed, *emoji))
            };
            named.next_if(goes_first).or_else(|| unnamed.next())
        })
    }
}

/// The JSON form of an entry.
#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    emoji: Cow<'a, str>,
    count: u64,
}

impl Serialize for TotalCounts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let entry = |(emoji, count): (_, u64)| Entry {
            emoji: Cow::Borrowed(emoji),
            count,
        };
        to.collect_seq(self.entries().map(entry))
    }
}

impl<'de> Deserialize<'de> for TotalCounts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<TotalCounts, D::Error> {
        let mut counts = TotalCounts::default();
        for Entry { emoji, count } in Vec::<Entry<'de>>::deserialize(from)? {
            match Emoji::from_text(&emoji) {
                Ok(emoji) => counts.named.push(Count { emoji, count }),
                Err(_) => counts.unnamed.push(UnnamedCount {
                    emoji: emoji.into(),
                    count,
                }),
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use proptest::prelude::*;

    use super::*;
    use crate::TotalsRecord;

    proptest! {
        #[test]
        fn counts_of_unknown_emojis_are_written_as_they_were_read(
            counts in proptest::collection::btree_map("[新年\"\\\\🔥👏😂]", 0_u64..4, 0..7),
        ) {
            let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
            counts.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
            let entry = |(emoji, count): &(String, u64)| {
                let emoji = serde_json::to_string(emoji).unwrap();
                format!(r#"{{"emoji":{emoji},"count":{count}}}"#)
            };
            let list = counts.iter().map(entry).collect::<Vec<_>>().join(",");
            let json = format!(r#"{{"room":"a","start":0,"end":2000,"total":9,"counts":[{list}]}}"#);
            let record: TotalsRecord = serde_json::from_str(&json).unwrap();
            let known = counts.iter().filter(|(emoji, _)| Emoji::from_text(emoji).is_ok()).count();
            let lists = (record.counts.named.len(), record.counts.unnamed.len());
            prop_assert_eq!(lists, (known, counts.len() - known));
            prop_assert_eq!(String::from_utf8(record.to_json()).unwrap(), json);
        }
    }
}
