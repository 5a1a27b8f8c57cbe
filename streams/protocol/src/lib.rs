//! Headers and values that a streams application adds to the records in its topics, for the programs that read them.
//!
//! ```text
//!  producers ──instance──▶ [source] ─▶ streams application ─┬─ results: windows, headers ─▶ their readers
//!                                                           └─ progress: which results complete a table
//! ```
//!
//! The crate contains only values, without IO, so that a program that reads results depends neither on the engine nor
//! on timely.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod headers;
mod later_finals;
mod result_order;
mod window;

pub use headers::{
    INSTANCE_HEADER, REMOVED_HEADER, RESETS_HEADER, ResultHeaders, TOTALS_BEGIN_HEADER,
};
pub use later_finals::LaterFinals;
pub use result_order::{FinalsFrom, ResultOrder, Unwritten};
pub use window::{Window, WindowSize};
