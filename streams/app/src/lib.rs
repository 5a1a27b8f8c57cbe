//! Programs that run an application of the engine: flags, log lines, metrics, readiness, signals and exit codes.
//!
//! ```text
//!  arguments, environment ─▶ flags ─▶ configuration ─▶ application ─▶ AppProcess: dataflow thread, admin address
//!                                                                     └─ SIGTERM, SIGINT ─▶ drain ─▶ exit code
//! ```
//!
//! [`App`] is a whole program with one application. The program `emostream` has more commands and services. It is built
//! from the same parts, and its `dataflow` command runs the same [`AppProcess`].
//!
//! The modules are in layers, listed here from top to bottom. A file imports only from lower layers:
//!
//! ```text
//!  app > app_process > topics server flags > process
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod app;
mod app_process;
pub mod flags;
pub mod process;
pub mod server;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topics;

pub use app::App;
pub use app_process::AppProcess;
