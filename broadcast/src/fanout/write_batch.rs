//! The pieces of one vectored write, and the bytes that this write did not send.
//!
//! This module does no IO: the caller writes, and passes the number of written bytes.

use std::io::IoSlice;

use bytes::Bytes;

use crate::room::cursor::{Cursor, Next};

/// Maximum number of pieces of one write. Most writes have one piece; only a connection that catches up has several.
const PIECES: usize = 16;
/// Number of bytes at which a batch is full: more than a socket accepts at once.
const FULL_BYTES: usize = 32 << 10;

/// Pieces that are written by one system call.
#[derive(Debug, Default)]
pub(super) struct WriteBatch {
    pieces: Vec<Piece>,
    bytes: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The unsent rest of a partly written piece.
    Rest,
    /// Pongs of which no byte was written.
    Pongs,
    /// A frame, and the subscriber's cursor after it.
    Frame(Cursor, Next),
}

/// The bytes that were not written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unsent {
    /// The rest of a partly written piece.
    pub(super) rest: Bytes,
    /// Pongs of which no byte was written.
    pub(super) pongs: Bytes,
}

impl WriteBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Returns whether no more pieces should be added.
    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= PIECES || self.bytes >= FULL_BYTES
    }

    /// Adds the rest of a partly written piece. It must be the first piece.
    pub(super) fn rest(&mut self, rest: Bytes) {
        self.push(rest, Kind::Rest);
    }

    pub(super) fn pongs(&mut self, pongs: Bytes) {
        self.push(pongs, Kind::Pongs);
    }

    /// Adds a frame. `cursor` is the subscriber's cursor after the frame.
    pub(super) fn frame(&mut self, bytes: Bytes, cursor: Cursor, next: Next) {
        self.push(bytes, Kind::Frame(cursor, next));
    }

    fn push(&mut self, bytes: Bytes, kind: Kind) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.pieces.push(Piece { bytes, kind });
        }
    }

    /// Writes all pieces by one call of `write`.
    pub(super) fn write<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); PIECES];
        // There are never more than `PIECES` pieces, since frames are added last, and only until the batch is full.
        let count = self.pieces.len().min(PIECES);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(&piece.bytes);
        }
        write(&slices[..count])
    }

    /// Returns the number of bytes of all pieces.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Empties the batch after a write of `written` bytes. A partly written frame counts as delivered. The cursor is
    /// moved after the delivered frames, and stays before the frames of which no byte was written.
    pub(super) fn complete(
        &mut self,
        written: usize,
        cursor: &mut Cursor,
        mut delivered: impl FnMut(&Next),
    ) -> Unsent {
        let mut unsent = Unsent::default();
        let mut unaccounted = written;
        self.bytes = 0;
        for Piece { bytes, kind } in self.pieces.drain(..) {
            let went = unaccounted.min(bytes.len());
            unaccounted -= went;
            let whole = went == bytes.len();
            match kind {
                Kind::Pongs if went == 0 => {
                    unsent.pongs = bytes;
                    continue;
                }
                Kind::Frame(..) if went == 0 => continue,
                Kind::Frame(after, next) => {
                    *cursor = after;
                    delivered(&next);
                }
                Kind::Rest | Kind::Pongs => {}
            }
            if !whole {
                unsent.rest = bytes.slice(went..);
            }
        }
        unsent
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::{
        state::RoomState,
        testing::{closed, record_of},
    };
    use emostream_model::ResultId;
    use proptest::prelude::*;

    fn room(finals: u64) -> RoomState {
        let mut room = RoomState::default();
        for offset in 1..=finals {
            let id = ResultId {
                partition: 0,
                offset,
            };
            assert!(room.push_final(closed(id, offset, record_of(offset, offset, None)), None));
        }
        room
    }

    proptest! {
        /// The stream must not depend on how many bytes each call writes. Each frame is counted once, when its first
        /// byte is written.
        #[test]
        fn the_written_stream_is_complete_and_in_order(
            finals in 1_u64..60,
            first in proptest::collection::vec(any::<u8>(), 0..40),
            mut takes in proptest::collection::vec(0_usize..3000, 1..200),
        ) {
            let room = room(finals);
            let from = ResultId { partition: 0, offset: 0 };
            let resume = || Cursor::resume(&room, from, &(0..finals + 1)).0;
            let mut expected = first.clone();
            let mut cursor = resume();
            while let Some(next) = cursor.next(&room) {
                next.frame(|frame| expected.extend_from_slice(frame.websocket()));
            }
            // The last calls write all bytes, so that the stream is complete.
            takes.extend([usize::MAX; 200]);
            let (mut cursor, mut rest) = (resume(), Bytes::from(first));
            let (mut got, mut delivered) = (Vec::new(), 0);
            let mut batch = WriteBatch::default();
            for take in takes {
                batch.rest(rest);
                let mut ahead = cursor;
                while !batch.is_full() && let Some(next) = ahead.next(&room) {
                    let bytes = next.frame(|frame| frame.websocket().clone());
                    batch.frame(bytes, ahead, next);
                }
                let all = batch.write(|slices| {
                    slices.iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>()
                });
                prop_assert_eq!(all.len(), batch.bytes());
                let written = take.min(all.len());
                got.extend_from_slice(&all[..written]);
                let unsent = batch.complete(written, &mut cursor, |_| delivered += 1);
                prop_assert!(batch.is_empty() && batch.bytes() == 0);
                rest = unsent.rest;
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(delivered, finals);
        }
    }

    #[test]
    fn pongs_that_were_not_begun_are_returned() {
        let mut batch = WriteBatch::default();
        let mut cursor = Cursor::join(&RoomState::default());
        for (written, rest, pongs) in [
            (1, "est", "pong"),
            (4, "", "pong"),
            (5, "ong", ""),
            (8, "", ""),
        ] {
            batch.rest(Bytes::from("rest"));
            batch.pongs(Bytes::from("pong"));
            let unsent = batch.complete(written, &mut cursor, |_| unreachable!("no frame"));
            assert_eq!(
                (&unsent.rest[..], &unsent.pongs[..]),
                (rest.as_bytes(), pongs.as_bytes())
            );
        }
    }
}
