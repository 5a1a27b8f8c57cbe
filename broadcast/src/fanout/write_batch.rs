//! What one call to the kernel takes: several pieces, some of which may not go.
//!
//! Pure: what was gathered and how much of it went in, what is kept and what was delivered out.

use std::io::IoSlice;

use bytes::Bytes;

use crate::room::cursor::{Cursor, Next};

/// The most pieces of one write. One is the rule; several are for those who catch up.
const PIECES: usize = 16;
/// What a socket hardly takes at once, so that gathering more would be in vain.
const FULL_BYTES: usize = 32 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pieces: Vec<Piece>,
    bytes: usize,
}

/// A piece, and what it is.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The rest of what was begun.
    Rest,
    /// Answers to pings, none of them begun.
    Pongs,
    /// A frame, and where the subscriber stands behind it.
    Frame(Cursor, Next),
}

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What was begun and has not gone.
    pub(super) rest: Bytes,
    /// Answers to pings that were not begun.
    pub(super) pongs: Bytes,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether more may wait than was gathered.
    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= PIECES || self.bytes >= FULL_BYTES
    }

    /// Before all else, as it was begun.
    pub(super) fn rest(&mut self, rest: Bytes) {
        self.push(rest, What::Rest);
    }

    pub(super) fn pongs(&mut self, pongs: Bytes) {
        self.push(pongs, What::Pongs);
    }

    /// A frame, and where its subscriber stands behind it.
    pub(super) fn frame(&mut self, bytes: Bytes, cursor: Cursor, next: Next) {
        self.push(bytes, What::Frame(cursor, next));
    }

    fn push(&mut self, bytes: Bytes, what: What) {
        if !bytes.is_empty() {
            self.bytes += bytes.len();
            self.pieces.push(Piece { bytes, what });
        }
    }

    /// Writes all by one call.
    pub(super) fn write<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); PIECES];
        // The rest and pongs come first, and frames stop when it is full.
        let count = self.pieces.len().min(PIECES);
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(&piece.bytes);
        }
        write(&slices[..count])
    }

    /// How many bytes were gathered.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Empties it; `written` bytes went. A frame that was begun counts as delivered, what was not stays where
    /// it was: the cursor does not move over it.
    pub(super) fn settle(
        &mut self,
        written: usize,
        cursor: &mut Cursor,
        mut delivered: impl FnMut(&Next),
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut left = written;
        self.bytes = 0;
        for Piece { bytes, what } in self.pieces.drain(..) {
            let went = left.min(bytes.len());
            left -= went;
            let whole = went == bytes.len();
            match what {
                What::Pongs if went == 0 => {
                    outcome.pongs = bytes;
                    continue;
                }
                What::Frame(..) if went == 0 => continue,
                What::Frame(behind, next) => {
                    *cursor = behind;
                    delivered(&next);
                }
                What::Rest | What::Pongs => {}
            }
            if !whole {
                outcome.rest = bytes.slice(went..);
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use crate::room::state::RoomState;
    use emostream_model::{Emoji, ResultId, Room, WindowRecord, WindowSize, compress};
    use proptest::prelude::*;

    fn room(finals: u64) -> RoomState {
        let mut room = RoomState::default();
        for offset in 1..=finals {
            let record = WindowRecord {
                room: Room::default(),
                window: WindowSize::from_ms(10).unwrap().window_of(offset * 10),
                emitted_at: None,
                total: offset,
                counts: vec![compress(Emoji::from_text("🔥").unwrap(), offset, 1000)],
            };
            let id = ResultId {
                partition: 0,
                offset,
            };
            assert!(room.push_final(id, offset, record, None, None));
        }
        room
    }

    proptest! {
        /// Whatever the socket takes at each call, the stream is the one that a willing socket gets, and
        /// each frame is counted once, when it is begun.
        #[test]
        fn what_goes_out_is_whole_and_in_order(
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
            // In the end it takes all.
            takes.extend([usize::MAX; 200]);
            let (mut cursor, mut rest) = (resume(), Bytes::from(first));
            let (mut got, mut delivered) = (Vec::new(), 0);
            let mut batch = Batch::default();
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
                let outcome = batch.settle(written, &mut cursor, |_| delivered += 1);
                prop_assert!(batch.is_empty() && batch.bytes() == 0);
                rest = outcome.rest;
            }
            prop_assert_eq!(got, expected);
            prop_assert_eq!(delivered, finals);
        }
    }

    #[test]
    fn answers_to_pings_that_were_not_begun_are_given_back() {
        let mut batch = Batch::default();
        let mut cursor = Cursor::join(&RoomState::default());
        for (written, rest, pongs) in [
            (1, "est", "pong"),
            (4, "", "pong"),
            (5, "ong", ""),
            (8, "", ""),
        ] {
            batch.rest(Bytes::from("rest"));
            batch.pongs(Bytes::from("pong"));
            let outcome = batch.settle(written, &mut cursor, |_| unreachable!("no frame"));
            assert_eq!(
                (&outcome.rest[..], &outcome.pongs[..]),
                (rest.as_bytes(), pongs.as_bytes())
            );
        }
    }
}
