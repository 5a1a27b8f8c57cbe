//! A cluster of processes that run one application: handshake, common start, failure detection and shutdown.
//!
//! ```text
//!  process 0 ◀──control── 1, 2 …     handshake, ready, beginning, heartbeats, drain, close
//!      ▲ ▲
//!      │ └────data──── 1 ◀──data── 2  timely's own channels, one connection per pair
//! ```
//!
//! Each process listens on its own address and dials the processes with a smaller index, with retries until
//! `--join-timeout`, so the processes may start in any order. A connection is accepted after a handshake with the token
//! of the cluster and the same settings. Other connections are dropped and have no effect. When all processes are
//! connected, the listeners close. Process 0 fences older runs, reads the progress, and sends the beginning to the
//! others. Then timely uses the data connections.
//!
//! The files, from top to bottom; each imports only from those after it:
//!
//! ```text
//!  group > event_loop > join > coordinator > handshake > wire peer > config
//! ```
//!
//! Invariants:
//! - Process 0 fences and reads progress only when all processes are connected.
//! - Every process is notified that the group drains before any of them closes a connection. So a connection that
//!   closes without this notification always means that a process is lost.
//! - A process that sends nothing for five seconds counts as lost, whether it is frozen, disconnected or has ended.

mod config;
mod coordinator;
mod event_loop;
mod group;
mod handshake;
mod join;
mod peer;
mod wire;

pub use config::Cluster;
pub use group::Group;
pub use handshake::ClusterSettings;
pub use wire::SharedBeginning;
