//! The parts of a process that all services share: addresses, readiness, metrics and graceful shutdown.
//!
//! ```text
//!  flags ─▶ ServerConfig ─bind─▶ Bound ─ start the service ─ serve ─▶ Serving … SIGTERM, SIGINT ─▶ Drain ─▶ 0
//!           files are read         └▶ admin: not ready ── ready ──▶     └── failed by itself ────▶ Drain ─▶ its exit code
//! ```
//!
//! Invariants: all files are read before an address is bound, and all addresses are bound before the admin address is
//! served or a service starts. The process is not ready before all its components are registered. The admin address is
//! served until everything else has ended.

mod admin;
mod bind;
mod dataflow;
mod drain;
mod listening;
mod log_watch;
mod observability;
mod publisher;

pub(crate) use admin::AdminServer;
pub(crate) use dataflow::DataflowThread;
pub(crate) use drain::Drain;
pub(crate) use listening::{RelayConfig, ServerConfig, print_ready};
pub(crate) use observability::Observability;
pub(crate) use publisher::{PublisherFlags, PublisherProcess};
