//! Reads results from Kafka as frames, for the servers that EmoStream is compared with.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use rdkafka::Offset;
use serde::Deserialize;

use super::feed::room;
use crate::{Result, cluster::read_results};

/// Flags of a server that EmoStream is compared with.
#[derive(Debug, Clone, Args)]
pub(crate) struct Flags {
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    prefix: String,
    #[arg(long)]
    rooms: usize,
}

#[derive(Deserialize)]
struct Head<'a> {
    room: &'a str,
    emitted_at: Option<u64>,
}

impl Flags {
    /// Returns a map with a new value for each room. The keys are the names of the rooms.
    pub(super) fn for_rooms<T>(&self, make: impl Fn() -> T) -> HashMap<String, T> {
        (0..self.rooms)
            .map(|number| (room(number), make()))
            .collect()
    }

    /// Calls `each` with the room and the frame of every result that is written after this call. Returns only if there
    /// is an error.
    pub(super) fn follow(&self, mut each: impl FnMut(&str, String)) -> Result<()> {
        let topics = ["live", "windows"].map(|name| format!("{}.{name}", self.prefix));
        let results = read_results(&self.kafka, &topics, Offset::End)?;
        loop {
            let mut parse_error = None;
            results.next(
                Duration::from_secs(1),
                |_, value| match serde_json::from_slice::<Head<'_>>(value) {
                    Ok(head) => {
                        let kind = head.emitted_at.map_or("final", |_| "live");
                        let rest = String::from_utf8_lossy(&value[1..]);
                        each(head.room, format!(r#"{{"type":"{kind}",{rest}"#));
                    }
                    Err(error) => parse_error = Some(error),
                },
            )?;
            if let Some(error) = parse_error {
                return Err(error.into());
            }
        }
    }
}
