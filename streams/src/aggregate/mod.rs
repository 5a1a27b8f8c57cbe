//! Partial results, which are made where records are read.

pub mod key;
pub mod pre_aggregator;
