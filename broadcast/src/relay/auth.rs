//! The shared secret of a tree of relays, and the proofs that two nodes know it.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use emostream_model::{Nonce, RelayHandshake, RelaySide};
use rand::RngExt;

/// The secret that all nodes of a tree share. It is empty if no token is required.
///
/// The secret is never sent. A proof is an HMAC-SHA-256 over the nonces of both sides, and the proofs of the two sides
/// differ. So a proof can be neither replayed nor reflected. Proofs are compared in constant time.
#[derive(Clone)]
pub struct RelayToken(Arc<Key>);

impl RelayToken {
    /// Returns the token with this secret.
    pub fn new(secret: &str) -> Self {
        Self(Arc::new(Key::new(HMAC_SHA256, secret.as_bytes())))
    }

    pub(super) fn prove(&self, side: RelaySide, handshake: &RelayHandshake) -> Nonce {
        let tag = hmac::sign(&self.0, &handshake.proof_input(side));
        let mut proof = Nonce::default();
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    pub(super) fn verifies(
        &self,
        side: RelaySide,
        handshake: &RelayHandshake,
        proof: &Nonce,
    ) -> bool {
        hmac::verify(&self.0, &handshake.proof_input(side), proof).is_ok()
    }
}

/// The default is the empty secret: no token is required.
impl Default for RelayToken {
    fn default() -> Self {
        Self::new("")
    }
}

impl fmt::Debug for RelayToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayToken")
    }
}

/// Returns a random nonce from a cryptographically secure generator.
pub(super) fn nonce() -> Nonce {
    // `rand::rng` is cryptographically secure, according to its documentation.
    rand::rng().random()
}

#[cfg(test)]
mod tests {
    use super::*;
    use emostream_model::NodeId;

    #[test]
    fn a_proof_is_valid_for_one_handshake_and_one_side_of_it() {
        let token = RelayToken::new("secret");
        let handshake = RelayHandshake {
            challenge: nonce(),
            answer: nonce(),
            relay: NodeId(7),
        };
        let proof = token.prove(RelaySide::Relay, &handshake);
        assert!(token.verifies(RelaySide::Relay, &handshake, &proof));
        assert!(!token.verifies(RelaySide::Upstream, &handshake, &proof));
        for other in [
            RelayHandshake {
                challenge: nonce(),
                ..handshake
            },
            RelayHandshake {
                answer: nonce(),
                ..handshake
            },
            RelayHandshake {
                relay: NodeId(8),
                ..handshake
            },
        ] {
            assert!(!token.verifies(RelaySide::Relay, &other, &proof));
        }
        for other in ["", "Secret", "secret "] {
            let other = RelayToken::new(other);
            assert!(!other.verifies(RelaySide::Relay, &handshake, &proof));
        }
        assert!(!format!("{token:?}").contains("secret"));
    }
}
