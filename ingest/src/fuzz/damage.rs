//! Damages the bytes of valid input at random positions.

use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    /// Repeats a part of the bytes.
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let (at, byte) = (any::<Index>, any::<u8>);
    // Bytes that have a meaning in JSON occur often, since they are more likely to reveal an error of a parser.
    let syntax_byte = prop_oneof![
        byte(),
        proptest::sample::select(b"\"\\[]{},:0e-\0\xff".to_vec())
    ];
    prop_oneof![
        (at(), syntax_byte.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), syntax_byte).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at().prop_map(Damage::Remove),
        at().prop_map(Damage::Truncate),
        (at(), at()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    // The position may be the one after the last byte.
    let position = |at: &Index| at.index(bytes.len() + 1);
    match damage {
        Damage::Insert(at, byte) => bytes.insert(position(at), *byte),
        Damage::Truncate(at) => bytes.truncate(position(at)),
        _ if bytes.is_empty() => {}
        Damage::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Damage::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
        Damage::Repeat(from, to) => {
            let (from, to) = (position(from), position(to));
            let piece = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.splice(from..from, piece);
        }
    }
}

/// Generates three values: the value that was encoded as valid bytes, these bytes after up to three damages, and
/// whether the bytes are unchanged.
pub(super) fn damaged<T: Clone + std::fmt::Debug>(
    whole: impl Strategy<Value = (T, Vec<u8>)>,
) -> impl Strategy<Value = (T, Bytes, bool)> {
    let damages = proptest::collection::vec(damage(), 0..=3);
    (whole, damages).prop_map(|((source, whole), damages)| {
        let mut bytes = whole.clone();
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        let intact = bytes == whole;
        // The type is `Bytes`, since a failed case then prints its input as text where possible.
        (source, Bytes::from(bytes), intact)
    })
}
