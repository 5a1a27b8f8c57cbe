//! Emojis: which there are, and the names people send for them.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::LazyLock};

use bincode::{Encode, enc::Encoder, error::EncodeError};
use foldhash::HashMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One Unicode emoji in its fully qualified form, without skin tone.
///
/// It is a small number, dense from 0 to [`Emoji::COUNT_LIMIT`], so that counts can live in arrays.
/// The number holds within one build of the program only; what leaves a process is the text.
/// Emojis are ordered by their text, as the results are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Emoji(u16);

/// The text is no emoji that Unicode knows, no shortcode and no alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an emoji: send one Unicode emoji (🔥), its shortcode (fire) or an alias (love)")]
pub struct UnknownEmoji;

struct Table {
    texts: Vec<&'static str>,
    ids: HashMap<&'static str, u16>,
    /// The place of each among all in the order of their texts, by number.
    ranks: Vec<u16>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let bases = emojis::iter().filter(|e| {
        e.skin_tone()
            .is_none_or(|tone| tone == emojis::SkinTone::Default)
    });
    let texts: Vec<&'static str> = bases.map(emojis::Emoji::as_str).collect();
    let ids = texts
        .iter()
        .zip(0..)
        .map(|(text, id)| (*text, id))
        .collect();
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_unstable_by_key(|id| texts[*id]);
    let mut ranks = vec![0; texts.len()];
    for (id, rank) in order.into_iter().zip(0..) {
        ranks[id] = rank;
    }
    Table { texts, ids, ranks }
});

impl Emoji {
    /// No emoji's number reaches this.
    pub const COUNT_LIMIT: usize = 1 << 16;

    /// The emoji that `text` is, exactly: nothing before it, nothing behind it.
    ///
    /// Minimally qualified and unqualified forms give the fully qualified emoji; a skin tone gives
    /// the emoji without (Unicode's emoji-test.txt is the source, by the `emojis` crate).
    pub fn from_text(text: &str) -> Result<Emoji, UnknownEmoji> {
        // Nearly all are the fully qualified form already.
        if let Some(id) = TABLE.ids.get(text) {
            return Ok(Emoji(*id));
        }
        emojis::get(text)
            .and_then(Emoji::folded)
            .ok_or(UnknownEmoji)
    }

    /// The emoji of a shortcode: `fire` or `:fire:` (gemoji's names).
    pub fn from_shortcode(code: &str) -> Result<Emoji, UnknownEmoji> {
        let bare = code
            .strip_prefix(':')
            .and_then(|code| code.strip_suffix(':'))
            .unwrap_or(code);
        emojis::get_by_shortcode(bare)
            .and_then(Emoji::folded)
            .ok_or(UnknownEmoji)
    }

    fn folded(emoji: &'static emojis::Emoji) -> Option<Emoji> {
        let base = emoji
            .with_skin_tone(emojis::SkinTone::Default)
            .unwrap_or(emoji);
        TABLE.ids.get(base.as_str()).copied().map(Emoji)
    }

    /// Its text, fully qualified.
    pub fn as_str(self) -> &'static str {
        TABLE.texts[usize::from(self.0)]
    }

    /// Its number in this build of the program.
    pub fn id(self) -> u16 {
        self.0
    }

    /// The emoji of this number in this build of the program.
    pub fn from_id(id: u16) -> Option<Emoji> {
        (usize::from(id) < TABLE.texts.len()).then_some(Emoji(id))
    }

    /// All of them, by number.
    pub fn all() -> impl ExactSizeIterator<Item = Emoji> {
        (0..TABLE.texts.len()).map(|id| Emoji(id as u16))
    }
}

impl Ord for Emoji {
    fn cmp(&self, other: &Emoji) -> Ordering {
        let rank = |emoji: &Emoji| TABLE.ranks[usize::from(emoji.0)];
        rank(self).cmp(&rank(other))
    }
}

impl PartialOrd for Emoji {
    fn partial_cmp(&self, other: &Emoji) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Emoji {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Emoji {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Emoji {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Emoji {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Emoji, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Emoji::from_text(&text).map_err(serde::de::Error::custom)
    }
}

/// By its text: numbers differ between builds. Another build may not know it, so what is read are lists that
/// leave such out.
impl Encode for Emoji {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

/// The names senders may use: emojis themselves, shortcodes, and the operator's aliases.
#[derive(Debug, Clone)]
pub struct EmojiNames {
    aliases: BTreeMap<String, Emoji>,
}

/// `--emoji-alias` is not `NAME=EMOJI`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AliasError {
    /// No `=`, or nothing before it.
    #[error("'{0}' is not NAME=EMOJI, for example goal=⚽")]
    Shape(String),
    /// What stands behind the `=` is no emoji.
    #[error("'{0}': {UnknownEmoji}")]
    Unknown(String),
}

impl Default for EmojiNames {
    /// The aliases of the interface: love, sad, happy, laugh, like, celebrate.
    fn default() -> EmojiNames {
        let defaults = [
            ("love", "❤️"),
            ("sad", "😢"),
            ("happy", "😀"),
            ("laugh", "😂"),
            ("like", "👍"),
            ("celebrate", "🎉"),
        ];
        let aliases = defaults
            .iter()
            .filter_map(|(name, text)| Some((name.to_string(), Emoji::from_text(text).ok()?)))
            .collect();
        EmojiNames { aliases }
    }
}

impl EmojiNames {
    /// Adds `NAME=EMOJI` (an emoji or a shortcode); a later alias replaces an earlier one.
    pub fn add_alias(&mut self, alias: &str) -> Result<(), AliasError> {
        let (name, text) = alias
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| AliasError::Shape(alias.to_owned()))?;
        let emoji = Emoji::from_text(text)
            .or_else(|_| Emoji::from_shortcode(text))
            .map_err(|_| AliasError::Unknown(alias.to_owned()))?;
        self.aliases.insert(name.to_owned(), emoji);
        Ok(())
    }

    /// The aliases, by name.
    pub fn aliases(&self) -> &BTreeMap<String, Emoji> {
        &self.aliases
    }

    /// The emoji a sender means by `name`: an alias first, then an emoji, then a shortcode.
    pub fn resolve(&self, name: &str) -> Result<Emoji, UnknownEmoji> {
        match self.aliases.get(name) {
            Some(emoji) => Ok(*emoji),
            None => Emoji::from_text(name).or_else(|_| Emoji::from_shortcode(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn every_emoji_is_found_by_its_text_and_survives_json() {
        assert!(Emoji::all().len() > 1500);
        for emoji in Emoji::all() {
            assert_eq!(Emoji::from_text(emoji.as_str()), Ok(emoji));
            let json = serde_json::to_string(&emoji).unwrap();
            assert_eq!(serde_json::from_str::<Emoji>(&json).unwrap(), emoji);
        }
    }

    #[test]
    fn emojis_are_ordered_by_their_texts() {
        let mut emojis: Vec<Emoji> = Emoji::all().collect();
        emojis.sort_unstable();
        assert!(emojis.is_sorted_by(|a, b| a.as_str() < b.as_str()));
    }

    #[test]
    fn skin_tones_fold_to_the_base_emoji() {
        for emoji in emojis::iter() {
            let base = Emoji::from_text(emoji.as_str()).unwrap();
            assert!(
                !base
                    .as_str()
                    .contains(|c| ('\u{1F3FB}'..='\u{1F3FF}').contains(&c)
                        && !matches!(base.as_str(), "🏻" | "🏼" | "🏽" | "🏾" | "🏿"))
            );
        }
        assert_eq!(Emoji::from_text("👍🏿").unwrap().as_str(), "👍");
    }

    #[test]
    fn the_look_up_is_exact() {
        for text in [
            "", "no such", "🔥🔥", " 🔥", "🔥 ", "fire!", "1", "\u{FE0F}",
        ] {
            assert_eq!(
                EmojiNames::default().resolve(text),
                Err(UnknownEmoji),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_form_without_variation_selector_means_the_qualified_emoji() {
        assert_eq!(Emoji::from_text("❤").unwrap().as_str(), "❤️");
    }

    #[test]
    fn shortcodes_and_aliases_name_emojis() {
        let mut names = EmojiNames::default();
        assert_eq!(names.resolve("fire").unwrap().as_str(), "🔥");
        assert_eq!(names.resolve(":fire:").unwrap().as_str(), "🔥");
        assert_eq!(names.resolve("love").unwrap().as_str(), "❤️");
        names.add_alias("goal=⚽").unwrap();
        assert_eq!(names.resolve("goal").unwrap().as_str(), "⚽");
        assert!(matches!(names.add_alias("goal"), Err(AliasError::Shape(_))));
        assert!(matches!(names.add_alias("=⚽"), Err(AliasError::Shape(_))));
        assert!(matches!(
            names.add_alias("goal=xyzzy"),
            Err(AliasError::Unknown(_))
        ));
    }
}
