//! Operators between the source and the sink.
//!
//! ```text
//!  partial counts ─▶ tumbling ─┬─▶ updates
//!                              └─▶ finals ─▶ totals (registry, writer, close, schedule) ─▶ records of a table
//!                                     └────▶ top (sliding, reduce) ─▶ records of a table
//! ```

pub mod key_numbers;
pub mod lifetimes;
pub mod reduce;
pub mod registry;
pub mod schedule;
pub mod sliding;
pub mod step;
pub mod top;
pub mod totals;
pub mod totals_close;
pub mod totals_writer;
pub mod tumbling;
pub mod updates;
