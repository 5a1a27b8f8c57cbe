//! Broadcast: reads results from the log and sends them to all subscribers.
//!
//! ```text
//!  [totals] ─at the start─┐
//!  [windows] ──▶ source ──┴▶ hub ─▶ room: ring of finals, newest live ─▶ fanout: cursor ─▶ WebSocket
//!  [trending] ─▶ (thread)           trending                            (shards) └─────▶ SSE
//!  [live] ─────▶
//!                                                           room_api: state, history, rooms ─▶ JSON
//! ```
//!
//! Layers: publisher → http → {source, relay, fanout} → hub → room → frame. A file imports from its own folder and from
//! the layers below it. `source`, `relay` and `fanout` are one layer, so they do not import each other. All layers use
//! `metrics`, `config` and `error`, which import no other module of this crate.
//!
//! There are two classes of messages. Only the newest of live tallies and trending lists is sent. Every final result in
//! the ring is sent. A subscriber has a cursor and no queue, so a slow subscriber uses no memory apart from the buffers
//! of its socket.
//!
//! Invariants:
//! - The frame of a result is serialised once for all subscribers, and has the same bytes at every publisher.
//! - The next message of a subscriber is a pure function of its cursor and the room (`room/cursor.rs`).
//! - All updates of rooms are applied by `hub/updates.rs`.
//! - A dedicated thread reads the log; an async task never does.
//! - Shards write to the sockets of subscribers. Async tasks answer all other requests, including health and metrics,
//!   and send the streams over HTTP/2.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod config;
mod error;
mod fanout;
mod frame;
mod http;
mod hub;
mod metrics;
mod publisher;
mod relay;
mod room;
mod source;

pub use config::{Config, IngestUrl, InvalidIngestUrl, SUBSCRIBER_HEARTBEAT, SubscriberConfig};
pub use error::BroadcastError;
pub use publisher::Publisher;
pub use relay::{auth::RelayToken, client::Upstreams, server::RelayPort};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::{fs, path::Path};

    /// The layers of this crate from top to bottom. Modules of the same layer do not import each other.
    const LAYERS: &str =
        "publisher > http > source relay fanout > hub > room > frame > metrics config error";

    fn layer(module: &str) -> usize {
        let mut layers = LAYERS.split(" > ").map(|layer| layer.split(' '));
        let found = layers.position(|mut layer| layer.any(|it| it == module));
        found.unwrap_or_else(|| panic!("write `use crate::LAYER::…`, not {module:?}"))
    }

    /// Checks the imports of the file or folder at `path`, and returns their number.
    fn check(module: &str, path: &Path) -> usize {
        if path.is_dir() {
            let entries = path.read_dir().unwrap();
            return entries.map(|it| check(module, &it.unwrap().path())).sum();
        }
        let text = fs::read_to_string(path).unwrap();
        let imports = text.split("crate::").skip(1);
        let is_allowed = |rest: &str| {
            let imported = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            assert!(
                imported == module || layer(imported) > layer(module),
                "{path:?} imports {imported}"
            );
        };
        imports.map(is_allowed).count()
    }

    #[test]
    fn no_file_imports_upward() {
        let mut imports = 0;
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for module in LAYERS.split(" > ").flat_map(|layer| layer.split(' ')) {
            let paths = [src.join(module), src.join(module).with_extension("rs")];
            let paths = paths.iter().filter(|path| path.exists());
            imports += paths.map(|path| check(module, path)).sum::<usize>();
        }
        assert!(imports > 100, "only {imports} imports were checked");
    }
}
