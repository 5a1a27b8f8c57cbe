//! The parts of a process that serves: the admin address, readiness, metrics, the dataflow, and graceful shutdown.
//!
//! Invariants: the process is not ready before all its components are registered. The admin address is served until
//! everything else has ended.

mod admin;
mod bind;
mod dataflow;
mod drain;
mod log_watch;
mod observability;

pub use admin::AdminServer;
pub use bind::{address, bind, scheme};
pub use dataflow::DataflowThread;
pub use drain::Drain;
pub use log_watch::LogWatch;
pub use observability::Observability;
