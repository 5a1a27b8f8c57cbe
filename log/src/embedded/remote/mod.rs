//! Reading a log that another process holds: the holder answers on a socket in the directory.
//!
//! ```text
//! client ──u32 length, question──▶ holder ──▶ snapshot
//!        ◀──u32 length, answer────
//! ```
//!
//! The socket only reads, and only whoever may use the directory reaches it. Frames, clients and the
//! patience with each are bounded; bytes that make no sense end that client's connection and nothing
//! else.

mod client;
mod protocol;
mod server;

pub(super) use client::{Client, socket_exists};
pub(super) use server::Server;

/// The socket's name in the data directory.
const SOCKET: &str = "log.sock";
