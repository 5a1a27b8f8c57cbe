//! The offsets of the finals that were read, by partition.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use emostream_model::{ReadRange, ResultId};
use tokio::sync::watch;

use crate::hub::{rejected_update::RejectedUpdate, upstream_status::UpstreamStatus};

/// Maximum time by which one publisher lags behind another publisher. A subscriber may have received an id from the
/// other publisher before this one reads it. If this publisher does not read the id within this time, the id is from
/// another log: the log was recreated.
const MAX_LAG: Duration = Duration::from_secs(2);

/// Maximum time to wait for an id at a disconnected relay, which reads it after it has connected to another upstream.
const MAX_LAG_DISCONNECTED: Duration = Duration::from_secs(8);

/// The offsets of the finals that were read.
#[derive(Debug, Default)]
pub(crate) struct ReadOffsets {
    ranges: Mutex<HashMap<u32, ReadRange>>,
    /// A channel that notifies waiting subscribers when a range grows.
    advanced: watch::Sender<()>,
}

impl ReadOffsets {
    pub(super) fn get(&self, partition: u32) -> Option<ReadRange> {
        self.ranges().get(&partition).copied()
    }

    /// Returns the range of offsets that were read from a partition. It is empty for a partition that is not read.
    pub(crate) fn range(&self, partition: u32) -> Range<u64> {
        let range = self.get(partition);
        range.map_or(0..0, |range| range.start..range.end)
    }

    /// Returns the range of every partition.
    pub(crate) fn all(&self) -> Vec<ReadRange> {
        self.ranges().values().copied().collect()
    }

    fn ranges(&self) -> MutexGuard<'_, HashMap<u32, ReadRange>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the finals of `range` were read. Returns `false` if that is already known. If the range begins
    /// after the end of the known range, the finals in between were deleted, and `evict` is called with the last
    /// deleted offset.
    pub(super) fn advance(
        &self,
        range: ReadRange,
        evict: impl FnOnce(u64),
    ) -> Result<bool, RejectedUpdate> {
        let partition = range.partition;
        let mut now = range;
        let mut evicted = None;
        if let Some(known) = self.get(partition) {
            if range.end < known.start {
                return Err(RejectedUpdate::OtherLog(format!("partition {partition}")));
            }
            if range.end <= known.end {
                return Ok(false);
            }
            match range.start > known.end {
                true => evicted = range.start.checked_sub(1),
                false => now.start = known.start,
            }
        }
        self.ranges().insert(partition, now);
        if let Some(last) = evicted {
            evict(last);
        }
        self.advanced.send_replace(());
        Ok(true)
    }

    fn lags_behind(&self, id: ResultId) -> bool {
        let range = self.get(id.partition);
        range.is_some_and(|range| range.end <= id.offset)
    }

    /// Waits until `id` is read, at most for [`MAX_LAG`], or for [`MAX_LAG_DISCONNECTED`] if this node is disconnected.
    /// A subscriber may have an id that this node has not read yet, since it was connected to a publisher that is
    /// ahead. Returns `false` if the id was not read and this node is disconnected: the id may still be from this log.
    pub(super) async fn catch_up(
        &self,
        id: ResultId,
        status: &watch::Sender<UpstreamStatus>,
    ) -> bool {
        let mut advanced = self.advanced.subscribe();
        let reached = async {
            while self.lags_behind(id) {
                // The result is ignored: the sender is a field of `self`, so it is not dropped.
                let _ = advanced.changed().await;
            }
        };
        let settled = async {
            let mut status = status.subscribe();
            loop {
                let _ = status.wait_for(UpstreamStatus::is_connected).await;
                if tokio::time::timeout(MAX_LAG, status.wait_for(|now| !now.is_connected()))
                    .await
                    .is_err()
                {
                    // The id was not read in time. The subscriber joins anyway, and its cursor announces a gap.
                    return;
                }
            }
        };
        tokio::select! {
            () = reached => true,
            () = settled => true,
            () = tokio::time::sleep(MAX_LAG_DISCONNECTED) => false,
        }
    }
}
