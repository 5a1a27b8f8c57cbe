//! Partial aggregation by the worker that reads the records.

pub mod key;
pub mod pre_aggregator;
