//! A publisher or a relay as a node of the tree.

use std::sync::Arc;

use emostream_model::NodeId;
use rand::RngExt;

use crate::hub::updates::Updates;

/// A node of the tree: its updates come from the log or from one upstream.
pub(crate) struct Node {
    pub(super) id: NodeId,
    pub(crate) updates: Arc<Updates>,
}

impl Node {
    /// A node with a random id.
    pub(crate) fn new(updates: Arc<Updates>) -> Self {
        Self {
            id: NodeId(rand::rng().random()),
            updates,
        }
    }
}
