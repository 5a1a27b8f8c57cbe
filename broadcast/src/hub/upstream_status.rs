//! Whether updates reach this node, and through which other nodes.

use std::sync::Arc;

use emostream_model::NodeId;

/// Whether updates reach this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpstreamStatus {
    /// No updates are received: the rooms may be out of date.
    Disconnected,
    /// Updates are received through these nodes, the nearest first. This node is not in the list. The list is empty if
    /// the updates come from the log.
    Connected(Arc<[NodeId]>),
}

impl UpstreamStatus {
    pub(crate) fn is_connected(&self) -> bool {
        matches!(self, Self::Connected(_))
    }
}
