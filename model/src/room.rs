//! Rooms: a match, a stream or a talk that users react to together.

use std::{fmt, sync::Arc};

use bincode::{
    BorrowDecode, Encode,
    de::BorrowDecoder,
    enc::Encoder,
    error::{DecodeError, EncodeError},
};
use serde::{Deserialize, Deserializer, Serialize};

/// Maximum length of a room's name, in bytes.
pub const MAX_ROOM_BYTES: usize = 64;

/// The name of a room: 1 to [`MAX_ROOM_BYTES`] characters that a URL path never escapes (RFC 3986, "unreserved"), but
/// not `.` or `..`, which clients remove from a path before they send it (RFC 3986, 5.2.4).
///
/// A clone is cheap, since it shares the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Room(Arc<str>);

/// The error for a text that is not the name of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a room's name has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -, but not . or ..")]
pub struct InvalidRoom;

impl Room {
    /// Validates a name.
    pub fn new(name: &str) -> Result<Room, InvalidRoom> {
        Room::validate(name).map(|()| Room(name.into()))
    }

    /// Validates a name in a record, where `.` and `..` are valid too. Earlier versions accepted these names, and a
    /// room with one of them must not make a whole record unreadable.
    pub fn from_record(name: &str) -> Result<Room, InvalidRoom> {
        Room::validate_record(name).map(|()| Room(name.into()))
    }

    /// Returns the room in the key of a record; `None` if there is no key, or the key is not the name of a room.
    pub fn from_key(key: Option<&[u8]>) -> Option<Room> {
        Room::from_record(std::str::from_utf8(key?).ok()?).ok()
    }

    /// Name of the room that a reaction without a `room` field is sent to.
    pub(crate) const DEFAULT: &'static str = "default";

    /// Validates a name without storing it.
    pub fn validate(name: &str) -> Result<(), InvalidRoom> {
        match name {
            "." | ".." => Err(InvalidRoom),
            _ => Room::validate_record(name),
        }
    }

    /// Validates a name in a record without storing it. In records `.` and `..` are valid too.
    pub(crate) fn validate_record(name: &str) -> Result<(), InvalidRoom> {
        let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
        let fits = (1..=MAX_ROOM_BYTES).contains(&name.len());
        (fits && name.bytes().all(unreserved))
            .then_some(())
            .ok_or(InvalidRoom)
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The default room has the name `default`. A reaction without a `room` field is sent to it.
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
        Room::from_record(&name).map_err(serde::de::Error::custom)
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
        Room::from_record(name).map_err(|_| DecodeError::Other("no room"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn names_that_a_url_path_cannot_contain_are_rejected() {
        let longest = "r".repeat(MAX_ROOM_BYTES);
        for name in ["a", "...", "..a", ".a.", "~", "-", &longest] {
            assert_eq!(Room::new(name).unwrap().as_str(), name);
        }
        let too_long = "r".repeat(MAX_ROOM_BYTES + 1);
        for name in [".", "..", "", "a/b", "a b", "ä", "%2e", &too_long] {
            assert_eq!(Room::new(name), Err(InvalidRoom), "{name}");
            assert_eq!(name.parse::<Room>(), Err(InvalidRoom), "{name}");
        }
    }

    #[test]
    fn records_of_former_versions_are_read_whatever_their_rooms() {
        assert_eq!(
            serde_json::from_str::<Room>(r#""..""#).unwrap().as_str(),
            ".."
        );
        assert_eq!(Room::from_record("."), Ok(Room(".".into())));
        assert_eq!(Room::from_record("a/b"), Err(InvalidRoom));
    }
}
