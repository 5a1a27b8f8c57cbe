//! Fuzz test of emoji names, as phones, keyboards and attackers may write them.

use emostream_model::{Emoji, EmojiNames};
use proptest::{prelude::*, sample::select};

use super::fuzz;

const VARIATION: char = '\u{fe0f}';
const TEXT_VARIATION: char = '\u{fe0e}';
const JOINER: char = '\u{200d}';

fn is_tone(c: char) -> bool {
    ('\u{1f3fb}'..='\u{1f3ff}').contains(&c)
}

/// Removes variation selectors and skin tones.
fn essence(text: &str) -> String {
    let signs = [VARIATION, TEXT_VARIATION];
    text.chars()
        .filter(|c| !signs.contains(c) && !is_tone(*c))
        .collect()
}

/// Generates known emojis with code points inserted or removed.
fn disguised() -> impl Strategy<Value = String> {
    let emojis: Vec<Emoji> = Emoji::all().collect();
    let sign = prop_oneof![
        Just(VARIATION),
        Just(TEXT_VARIATION),
        Just(JOINER),
        proptest::char::range('\u{1f3fb}', '\u{1f3ff}'),
        any::<char>(),
    ];
    let change = (any::<prop::sample::Index>(), proptest::option::of(sign));
    let changes = proptest::collection::vec(change, 0..=2);
    (select(emojis), changes).prop_map(|(emoji, changes)| {
        let mut chars: Vec<char> = emoji.as_str().chars().collect();
        for (at, sign) in changes {
            let at = at.index(chars.len() + 1);
            match sign {
                Some(sign) => chars.insert(at, sign),
                None if at < chars.len() => drop(chars.remove(at)),
                None => {}
            }
        }
        chars.into_iter().collect()
    })
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => disguised(),
        1 => ":?(fire|clap|love|sad|x|heart|smile):?",
        1 => ":?[a-z0-9_+-]{0,12}:?",
        1 => "\\PC{0,6}",
        1 => any::<String>(),
    ]
}

#[test]
fn a_name_is_resolved_to_one_emoji_or_refused() {
    let known = EmojiNames::default();
    fuzz("emoji", names(), |name| {
        let Ok(emoji) = known.resolve(&name) else {
            let exact = Emoji::all().any(|emoji| emoji.as_str() == name);
            prop_assert!(!exact, "{name} is an emoji");
            return Ok(());
        };
        let text = emoji.as_str();
        prop_assert_eq!(known.resolve(text), Ok(emoji));
        prop_assert_eq!(Emoji::from_id(emoji.id()), Some(emoji));
        prop_assert!(!text.chars().any(is_tone), "{text} has a skin tone");
        // Shortcodes and aliases are ASCII. Any other name equals its emoji, except for variation selectors and skin
        // tones.
        if !name.is_ascii() {
            prop_assert_eq!(essence(&name), essence(text));
        }
        Ok(())
    });
}
