//! What results are grouped by, and what is counted of each group.
//!
//! The traits have no methods, so that types of other crates are keys and items without a wrapper.

use std::{borrow::Borrow, hash::Hash};

use differential_dataflow::ExchangeData;

/// What results are grouped by: the key of their records, which is text. Clones should be cheap.
///
/// All data of a key is on one worker, which the key's [`Hash`] selects. Results of a window are sent in the order of
/// their keys.
pub trait Key: ExchangeData + Hash + Borrow<str> {}

impl<K: ExchangeData + Hash + Borrow<str>> Key for K {}

/// What is counted of a key. Of equal counts, those of smaller items come first.
///
/// Items are sorted at every close, so comparing them should be as fast as comparing numbers.
pub trait Item: ExchangeData + Hash + Copy + Sync {}

impl<I: ExchangeData + Hash + Copy + Sync> Item for I {}

/// What operators send on and do not look into.
pub trait Opaque: timely::ExchangeData + Clone {}

impl<U: timely::ExchangeData + Clone> Opaque for U {}
