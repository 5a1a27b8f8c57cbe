//! The addresses of the HTTP services, and the process of a publisher.
//!
//! ```text
//!  flags ─▶ ServerConfig ─bind─▶ Bound ─ start the service ─ serve ─▶ Serving … SIGTERM, SIGINT ─▶ Drain ─▶ 0
//!           files are read         └▶ admin: not ready ── ready ──▶     └── failed by itself ────▶ Drain ─▶ its exit code
//! ```
//!
//! Invariants: all files are read before an address is bound, and all addresses are bound before the admin address is
//! served or a service starts. The admin address is served until everything else has ended.

mod listening;
mod publisher;

pub(crate) use listening::{RelayConfig, ServerConfig, print_ready};
pub(crate) use publisher::{PublisherFlags, PublisherProcess};
