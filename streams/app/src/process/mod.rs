//! The process of a program: its arguments, signals, log lines and output, and the exit code and the message with which
//! it ends.
//!
//! ```text
//!  handlers of signals ─▶ panic hook ─▶ arguments, environment ─▶ command ─┬─ Ok ──────▶ 0
//!                                                                          └─ Failure ─▶ its message, its exit code
//! ```

mod arguments;
mod exit;
mod logging;
pub mod output;
pub mod panic_hook;
mod program;
mod signal;

pub use arguments::{Arguments, Parsed, parsed};
pub use exit::{Exit, Failure};
pub use logging::{LogFlags, LogFormat, json_line};
pub use program::{Program, block_on};
pub use signal::Signals;
