//! Partial aggregation: the worker that reads records counts their events, and sends only the counts to other workers.

pub mod key;
pub mod pre_aggregator;
