//! What people react to together: a match, a stream, a talk.

use std::{fmt, sync::Arc};

use bincode::{
    BorrowDecode, Encode,
    de::BorrowDecoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};
use serde::{Deserialize, Deserializer, Serialize};

/// The longest room name, in bytes (INTERFACE: `[A-Za-z0-9._~-]{1,64}`).
pub const MAX_ROOM_BYTES: usize = 64;

/// A room's name: 1 to 64 of the characters that a URL path never escapes (RFC 3986, "unreserved").
///
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Room(Arc<str>);

/// The text is not a room's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a room is 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")]
pub struct InvalidRoom;

impl Room {
    /// The room of `name`.
    pub fn new(name: &str) -> Result<Room, InvalidRoom> {
        Room::check(name).map(|()| Room(name.into()))
    }

    /// The name of the room of a reaction that names none.
    pub(crate) const DEFAULT: &'static str = "default";

    /// Whether `name` names a room, without keeping it.
    pub fn check(name: &str) -> Result<(), InvalidRoom> {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
        let fits = (1..=MAX_ROOM_BYTES).contains(&name.len());
        (fits && name.bytes().all(unreserved))
            .then_some(())
            .ok_or(InvalidRoom)
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The room of a reaction that names none: `default`.
impl Default for Room {
    fn default() -> Room {
        Room(Room::DEFAULT.into())
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for Room {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Room {
    type Err = InvalidRoom;
    fn from_str(name: &str) -> Result<Room, InvalidRoom> {
        Room::new(name)
    }
}

impl<'de> Deserialize<'de> for Room {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Room, D::Error> {
        let name = String::deserialize(deserializer)?;
        Room::new(&name).map_err(serde::de::Error::custom)
    }
}

impl Encode for Room {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

impl<'de, C> BorrowDecode<'de, C> for Room {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Room, DecodeError> {
        let name = <&str>::borrow_decode(decoder)?;
        Room::new(name).map_err(|_| DecodeError::Other("no room"))
    }
}
