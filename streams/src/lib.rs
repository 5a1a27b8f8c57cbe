//! Streams with event time on timely dataflow, exactly once from the log into the log.
