//! What only the embedded log has to promise.
