//! Whether updates reach this node, and through which other nodes.

use std::sync::Arc;

use emostream_model::NodeId;

/// Whether updates reach this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpstreamStatus {
    /// They do not: the rooms may be out of date.
    Disconnected,
    /// They do, through these nodes, the nearest first; this node is not one of them. Empty: from the log.
    Connected(Arc<[NodeId]>),
}

impl UpstreamStatus {
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }
}
