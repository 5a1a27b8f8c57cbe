//! What happens to bytes on their way.

use bytes::Bytes;
use proptest::{prelude::*, sample::Index};

#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
    /// A piece comes a second time.
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let (at, byte) = (any::<Index>, any::<u8>);
    // What means something to a parser is likelier to do harm.
    let sharp = prop_oneof![
        byte(),
        proptest::sample::select(b"\"\\[]{},:0e-\0\xff".to_vec())
    ];
    prop_oneof![
        (at(), sharp.clone()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), sharp).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        at().prop_map(Damage::Remove),
        at().prop_map(Damage::Truncate),
        (at(), at()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    // One place more than there are bytes: behind the last.
    let place = |at: &Index| at.index(bytes.len() + 1);
    match damage {
        Damage::Insert(at, byte) => bytes.insert(place(at), *byte),
        Damage::Truncate(at) => bytes.truncate(place(at)),
        _ if bytes.is_empty() => {}
        Damage::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Damage::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
        Damage::Repeat(from, to) => {
            let (from, to) = (place(from), place(to));
            let piece = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.splice(from..from, piece);
        }
    }
}

/// The bytes, damaged up to three times, and whether they are intact.
pub(super) fn damaged<T: Clone + std::fmt::Debug>(
    whole: impl Strategy<Value = (T, Vec<u8>)>,
) -> impl Strategy<Value = (T, Bytes, bool)> {
    let damages = proptest::collection::vec(damage(), 0..=3);
    (whole, damages).prop_map(|((source, whole), damages)| {
        let mut bytes = whole.clone();
        damages.iter().for_each(|damage| apply(&mut bytes, damage));
        let intact = bytes == whole;
        // Shown as text where it can be.
        (source, Bytes::from(bytes), intact)
    })
}
