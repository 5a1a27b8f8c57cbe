//! The input of the proofs. With a proof, a relay shows its upstream that it knows the token, and the upstream shows
//! the same to the relay.

use super::{NodeId, Nonce};

/// The side of the connection that proves that it knows the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The relay, which sends its proof in its hello.
    Relay,
    /// The upstream, which sends its proof in its welcome.
    Upstream,
}

/// The values that identify one handshake of a relay with an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The upstream's nonce, from its challenge.
    pub challenge: Nonce,
    /// The relay's nonce, from its hello.
    pub answer: Nonce,
    /// The relay's id.
    pub relay: NodeId,
}

impl Handshake {
    /// Returns the bytes whose HMAC-SHA-256 is the proof of `side`; the key of the HMAC is the token. The bytes differ
    /// between the two sides and between any two handshakes, so that a proof cannot be reflected or replayed.
    pub fn proof_input(&self, side: Side) -> Vec<u8> {
        let side: &[u8] = match side {
            Side::Relay => b"emostream relay",
            Side::Upstream => b"emostream upstream",
        };
        let relay = self.relay.0.to_be_bytes();
        [side, &self.challenge, &self.answer, &relay].concat()
    }
}
