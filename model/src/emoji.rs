//! Emojis, and the names by which clients send them.

use std::{collections::BTreeMap, fmt, sync::LazyLock};

use bincode::{Encode, enc::Encoder, error::EncodeError};
use foldhash::HashMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One Unicode emoji in its fully qualified form, without skin tone.
///
/// The value is a number that is valid only within one build of the program. So records and messages contain the
/// emoji's text instead of the number. Numbers are assigned in the order of the texts, so that results can be sorted by
/// number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Emoji(u16);

/// The error for a text that is neither a Unicode emoji nor a shortcode nor an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an emoji: send one Unicode emoji (🔥), its shortcode (fire) or an alias (love)")]
pub struct UnknownEmoji;

struct Table {
    /// Text of each emoji. The index is the number of the emoji.
    texts: Vec<&'static str>,
    ids: HashMap<&'static str, u16>,
    /// Number of each emoji. The key is the [`normalized`] text of the emoji. The texts of variants with skin tones are
    /// included, since some of them contain other emojis than the text without skin tones.
    by_normalized: HashMap<String, u16>,
    /// Numbers in the order of Unicode's list, which keyboards also use: smileys come first.
    keyboard: Vec<u16>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let bases = emojis::iter().filter(|e| {
        e.skin_tone()
            .is_none_or(|tone| tone == emojis::SkinTone::Default)
    });
    let in_keyboard_order: Vec<&'static str> = bases.map(emojis::Emoji::as_str).collect();
    let mut texts = in_keyboard_order.clone();
    texts.sort_unstable();
    let ids: HashMap<&'static str, u16> = texts.iter().copied().zip(0..).collect();
    let mut table = Table {
        keyboard: in_keyboard_order.iter().map(|text| ids[text]).collect(),
        texts,
        ids,
        by_normalized: HashMap::default(),
    };
    for emoji in with_skin_tones() {
        if let Some(id) = table.base_id(emoji) {
            table.by_normalized.insert(normalized(emoji.as_str()), id);
        }
    }
    table
});

/// Iterates over all emojis, each followed by its variants with skin tones.
fn with_skin_tones() -> impl Iterator<Item = &'static emojis::Emoji> {
    emojis::iter()
        .flat_map(|emoji| std::iter::once(emoji).chain(emoji.skin_tones().into_iter().flatten()))
}

impl Table {
    /// Returns the number of `emoji` without its skin tone.
    fn base_id(&self, emoji: &'static emojis::Emoji) -> Option<u16> {
        let base = emoji.with_skin_tone(emojis::SkinTone::Default);
        self.ids.get(base.unwrap_or(emoji).as_str()).copied()
    }
}

/// Returns `text` without variation selectors and skin tones. A variation selector requests that an emoji is shown as
/// text or as a picture. Some keyboards send it and others do not, so it is ignored.
fn normalized(text: &str) -> String {
    let dropped = |c: &char| matches!(c, '\u{fe0e}' | '\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}');
    text.chars().filter(|c| !dropped(c)).collect()
}

impl Emoji {
    /// Parses exactly one emoji, without other characters before or after it.
    ///
    /// Variation selectors and skin tones are ignored at any position. The `emojis` crate contains the valid sequences
    /// of code points, which are those of Unicode's emoji-test.txt.
    pub fn from_text(text: &str) -> Result<Emoji, UnknownEmoji> {
        // Nearly all texts are already in the fully qualified form, so the text is looked up first as it is.
        if let Some(id) = TABLE.ids.get(text) {
            return Ok(Emoji(*id));
        }
        if text.is_ascii() {
            return Err(UnknownEmoji);
        }
        let known = TABLE.by_normalized.get(&normalized(text));
        known.copied().map(Emoji).ok_or(UnknownEmoji)
    }

    /// Parses a shortcode of gemoji (the list that GitHub uses): `fire` or `:fire:`.
    pub fn from_shortcode(code: &str) -> Result<Emoji, UnknownEmoji> {
        emojis::get_by_shortcode(without_colons(code))
            .and_then(|emoji| TABLE.base_id(emoji))
            .map(Emoji)
            .ok_or(UnknownEmoji)
    }

    /// Returns the fully qualified text.
    pub fn as_str(self) -> &'static str {
        TABLE.texts[usize::from(self.0)]
    }

    /// Returns the number of the emoji in this build of the program.
    pub fn id(self) -> u16 {
        self.0
    }

    /// Returns the emoji that has the number `id` in this build of the program.
    pub fn from_id(id: u16) -> Option<Emoji> {
        (usize::from(id) < TABLE.texts.len()).then_some(Emoji(id))
    }

    /// Iterates over all emojis in the order of Unicode's list, which keyboards also use: smileys come first.
    pub fn all() -> impl ExactSizeIterator<Item = Emoji> {
        TABLE.keyboard.iter().map(|id| Emoji(*id))
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

/// Encodes the text, since numbers differ between builds. There is no decoder of a single emoji, since the receiver may
/// not know the emoji. Lists are decoded in `known.rs`, which leaves out unknown emojis.
impl Encode for Emoji {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

/// Returns the name without the colons that clients may write around it.
fn without_colons(name: &str) -> &str {
    name.strip_prefix(':')
        .and_then(|name| name.strip_suffix(':'))
        .unwrap_or(name)
}

/// The names that clients may send: emojis, shortcodes, and aliases that the operator has configured.
#[derive(Debug, Clone)]
pub struct EmojiNames {
    aliases: BTreeMap<String, Emoji>,
}

/// The error for a value of `--emoji-alias` that is not `NAME=EMOJI`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AliasError {
    /// The text has no `=`, or no name before the `=`.
    #[error("'{0}' is not NAME=EMOJI, for example goal=⚽")]
    Shape(String),
    /// The text after the `=` is not an emoji.
    #[error("'{0}': {UnknownEmoji}")]
    Unknown(String),
}

impl Default for EmojiNames {
    /// Returns the aliases of the HTTP interface: love, sad, happy, laugh, like, celebrate.
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
    /// Adds `NAME=EMOJI`, where `EMOJI` is an emoji or a shortcode. A later alias replaces an earlier one of the same
    /// name. Colons around the name are ignored.
    pub fn add_alias(&mut self, alias: &str) -> Result<(), AliasError> {
        let (name, text) = alias
            .split_once('=')
            .map(|(name, text)| (without_colons(name), text))
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| AliasError::Shape(alias.to_owned()))?;
        let emoji = Emoji::from_text(text)
            .or_else(|_| Emoji::from_shortcode(text))
            .map_err(|_| AliasError::Unknown(alias.to_owned()))?;
        self.aliases.insert(name.to_owned(), emoji);
        Ok(())
    }

    /// Returns the aliases. The key is the name.
    pub fn aliases(&self) -> &BTreeMap<String, Emoji> {
        &self.aliases
    }

    /// Resolves a name that a client has sent. The name is looked up first as an alias, then as an emoji, then as a
    /// shortcode. Colons around aliases and shortcodes are ignored.
    pub fn resolve(&self, name: &str) -> Result<Emoji, UnknownEmoji> {
        match self.aliases.get(without_colons(name)) {
            Some(emoji) => Ok(*emoji),
            None => Emoji::from_text(name).or_else(|_| Emoji::from_shortcode(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
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
    fn skin_tones_are_removed() {
        for emoji in with_skin_tones() {
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

    /// An earlier version rejected 🔥 with U+FE0F, and other sequences that phones and keyboards send.
    #[test]
    fn selectors_and_tones_are_ignored_at_any_position() {
        for (text, emoji) in [
            ("❤", "❤️"),
            ("❤\u{fe0e}", "❤️"),
            ("🔥\u{fe0f}", "🔥"),
            ("🔥\u{fe0e}", "🔥"),
            ("☝🏽\u{fe0f}", "☝️"),
            ("☝\u{fe0f}🏽", "☝️"),
            ("👍\u{fe0f}🏿", "👍"),
            ("1\u{20e3}", "1️⃣"),
            ("👁\u{fe0f}\u{200d}🗨", "👁️‍🗨️"),
            ("👁\u{200d}🗨\u{fe0f}", "👁️‍🗨️"),
            ("👩\u{fe0f}\u{200d}❤\u{200d}👨", "👩‍❤️‍👨"),
            ("🏳\u{200d}🌈\u{fe0f}", "🏳️‍🌈"),
            ("👩🏻\u{200d}🤝\u{200d}👨🏿\u{fe0f}", "👫"),
            ("🔥🏽", "🔥"),
        ] {
            assert_eq!(Emoji::from_text(text).unwrap().as_str(), emoji, "{text:?}");
        }
    }

    #[test]
    fn no_two_emojis_are_the_same_without_selectors_and_tones() {
        for emoji in with_skin_tones() {
            let base_id = TABLE.base_id(emoji).map(Emoji);
            assert_eq!(Emoji::from_text(emoji.as_str()).ok(), base_id, "{emoji}");
        }
        let texts: std::collections::HashSet<_> = Emoji::all()
            .map(|emoji| normalized(emoji.as_str()))
            .collect();
        assert_eq!(texts.len(), Emoji::all().len());
        assert!(!texts.contains(""));
    }

    #[test]
    fn shortcodes_and_aliases_name_emojis() {
        let mut names = EmojiNames::default();
        assert_eq!(names.resolve("fire").unwrap().as_str(), "🔥");
        assert_eq!(names.resolve(":fire:").unwrap().as_str(), "🔥");
        assert_eq!(names.resolve("love").unwrap().as_str(), "❤️");
        names.add_alias("goal=⚽").unwrap();
        assert_eq!(names.resolve("goal").unwrap().as_str(), "⚽");
        names.add_alias(":own:=⚽").unwrap();
        for name in [":love:", ":goal:", "own", ":own:"] {
            assert!(names.resolve(name).is_ok(), "{name}");
        }
        assert!(matches!(
            names.add_alias("::=⚽"),
            Err(AliasError::Shape(_))
        ));
        assert!(matches!(names.add_alias("goal"), Err(AliasError::Shape(_))));
        assert!(matches!(names.add_alias("=⚽"), Err(AliasError::Shape(_))));
        assert!(matches!(
            names.add_alias("goal=xyzzy"),
            Err(AliasError::Unknown(_))
        ));
    }
}
