//! What the two sides of a link prove to each other: that they know the same token, here and now.

use super::{NodeId, Nonce};

/// Whose proof it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The relay's, in its hello.
    Relay,
    /// The upstream's, in its welcome.
    Upstream,
}

/// One meeting of a relay and an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// The upstream's nonce, of its challenge.
    pub challenge: Nonce,
    /// The relay's nonce, of its hello.
    pub answer: Nonce,
    /// The relay.
    pub relay: NodeId,
}

impl Meeting {
    /// The bytes whose HMAC-SHA-256 under the token is the proof of `side`. They differ for the two sides
    /// and for any two meetings, so that no proof is good twice.
    pub fn bytes(&self, side: Side) -> Vec<u8> {
        let side: &[u8] = match side {
            Side::Relay => b"emostream relay",
            Side::Upstream => b"emostream upstream",
        };
        let relay = self.relay.0.to_be_bytes();
        [side, &self.challenge, &self.answer, &relay].concat()
    }
}
