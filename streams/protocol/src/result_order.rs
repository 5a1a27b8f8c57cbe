//! The order of the results of a key, and the offsets from which the final results of an order can be read.

use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Serialize};

use crate::Window;

/// Position of a result among the results of its key. After each reset of the application to an earlier time, windows
/// begin earlier again, so the number of such resets is compared first and the window second. Offsets cannot be used
/// instead: they order records only within a partition, and a key can move to another partition when partitions are
/// added to the topic.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    Encode,
    BorrowDecode,
)]
pub struct ResultOrder {
    /// The number of backward resets before the result.
    pub resets: u64,
    /// The start of the result's window, Unix milliseconds.
    pub start_ms: u64,
}

impl ResultOrder {
    /// Returns the order of a result of `window` that was written after `resets` backward resets.
    pub fn new(resets: u64, window: Window) -> ResultOrder {
        ResultOrder {
            resets,
            start_ms: window.start,
        }
    }

    /// Returns the latest order before this one, assuming that windows begin at whole milliseconds. Returns the first
    /// order unchanged, since no order is before it.
    pub fn just_before(self) -> ResultOrder {
        let ResultOrder { resets, start_ms } = self;
        match (start_ms.checked_sub(1), resets.checked_sub(1)) {
            (Some(start_ms), _) => ResultOrder { resets, start_ms },
            (None, Some(resets)) => ResultOrder {
                resets,
                start_ms: u64::MAX,
            },
            (None, None) => self,
        }
    }
}

/// Offsets from which the topic of final results must be read to find all final results that have an order or a later
/// one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalsFrom {
    /// The order: all final results with this order or a later one are at `offsets` or later.
    #[serde(flatten)]
    pub since: ResultOrder,
    /// Pairs of a partition's number and the offset from which this partition must be read.
    pub offsets: Vec<(u32, u64)>,
}

impl FinalsFrom {
    /// Returns the offset of `partition`. Returns 0 for a partition that was added to the topic later.
    pub fn offset(&self, partition: u32) -> u64 {
        let of = self.offsets.iter().find(|(of, _)| *of == partition);
        of.map_or(0, |(_, offset)| *offset)
    }
}

/// The final results that are not contained in totals records yet: part of the value of a progress record.
///
/// The value is also correct for the totals as of the previous commit. This is necessary because the partitions of a
/// Kafka transaction become visible one after another: a reader that sees the progress record of a transaction may not
/// yet see the other records of this transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwritten {
    /// The oldest final result that is not in its key's totals record. `None` if each totals record is complete.
    #[serde(
        default,
        rename = "unwritten_since",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<ResultOrder>,
    /// The offsets from which a reader must read final results to complete the tables. `None` if the offsets are not
    /// known: then the reader must read the whole topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finals: Option<FinalsFrom>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_later_reset_number_comes_after_a_later_window() {
        let window = |start| Window {
            start,
            end: start + 2000,
        };
        assert!(ResultOrder::new(1, window(0)) > ResultOrder::new(0, window(8000)));
        assert!(ResultOrder::new(1, window(2000)) > ResultOrder::new(1, window(0)));
    }

    #[test]
    fn the_order_just_before_another_is_the_latest_earlier_one() {
        let order = |resets, start_ms| ResultOrder { resets, start_ms };
        assert_eq!(order(1, 2000).just_before(), order(1, 1999));
        assert_eq!(order(1, 0).just_before(), order(0, u64::MAX));
        assert_eq!(order(0, 0).just_before(), order(0, 0));
    }

    #[test]
    fn empty_fields_are_not_written() {
        let complete = Unwritten::default();
        assert_eq!(serde_json::to_string(&complete).unwrap(), "{}");
        let since = ResultOrder {
            resets: 0,
            start_ms: 4000,
        };
        let unwritten = Unwritten {
            since: Some(since),
            finals: Some(FinalsFrom {
                since: ResultOrder { resets: 2, ..since },
                offsets: vec![(0, 17), (1, 4)],
            }),
        };
        let json = r#"{"unwritten_since":{"resets":0,"start_ms":4000},"finals":{"resets":2,"start_ms":4000,"offsets":[[0,17],[1,4]]}}"#;
        assert_eq!(serde_json::to_string(&unwritten).unwrap(), json);
        assert_eq!(serde_json::from_str::<Unwritten>(json).unwrap(), unwritten);
        assert_eq!(unwritten.finals.unwrap().offset(7), 0);
    }
}
