//! Operators between the source and the sink.
//!
//! ```text
//!  partial counts ─▶ tumbling ─┬─▶ updates
//!                              └─▶ finals ─▶ totals (registry, writer, close, schedule) ─▶ records of a table
//!                                     └────▶ top (sliding, reduce) ─▶ records of a table
//! ```

pub mod key_numbers;
pub mod lifetimes;
mod output;
pub mod records;
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

/// Whether this run writes the results at `time_ms`. `final_until_ms` is the final-until time at the start of the run.
/// Restored state has the time 0, and earlier runs have written its results.
fn is_of_this_run(time_ms: u64, final_until_ms: u64) -> bool {
    time_ms >= final_until_ms && time_ms > 0
}
