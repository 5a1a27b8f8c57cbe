//! Traits of the keys that results are grouped by, and of the items that are counted for each key.
//!
//! The traits have no methods, so that types of other crates can be keys and items without a wrapper.

use std::{borrow::Borrow, hash::Hash};

use differential_dataflow::ExchangeData;

/// A key that results are grouped by. Its text is the key of the records of these results. Clones should be cheap. The
/// length of the text must be bounded: a final result that is too large for its topic ends every run that tries to
/// write it.
///
/// All data of a key is on one worker, which the key's [`Hash`] selects. The results of a window are sent in the order
/// of their keys.
pub trait Key: ExchangeData + Hash + Borrow<str> {}

impl<K: ExchangeData + Hash + Borrow<str>> Key for K {}

/// An item whose events are counted for each key. Items with equal counts are sorted by their [`Ord`].
///
/// The items are sorted whenever a window is closed, so a comparison of two items should be as fast as a comparison of
/// two numbers. A key should have at most some thousand items in a window: they are stored in a sorted list, and
/// inserting an item moves all items after it.
pub trait Item: ExchangeData + Hash + Sync {}

impl<I: ExchangeData + Hash + Sync> Item for I {}
