//! Traits of the keys that results are grouped by, and of the items that are counted for each key.
//!
//! The traits have no methods, so that types of other crates can be keys and items without a wrapper.

use std::{borrow::Borrow, hash::Hash};

use differential_dataflow::ExchangeData;

/// A key that results are grouped by. It is the key of their records, which is text. Clones should be cheap. Its length
/// must be bounded: a final that its topic does not accept ends every run.
///
/// All data of a key is on one worker, which the key's [`Hash`] selects. The results of a window are sent in the order
/// of their keys.
pub trait Key: ExchangeData + Hash + Borrow<str> {}

impl<K: ExchangeData + Hash + Borrow<str>> Key for K {}

/// An item whose events are counted for each key. Items with equal counts are sorted in their own order.
///
/// Items are sorted at every close, so a comparison should be as fast as that of numbers. A key may have some thousand
/// items in a window: they are kept in order, and each new one moves those after it.
pub trait Item: ExchangeData + Hash + Sync {}

impl<I: ExchangeData + Hash + Sync> Item for I {}
