//! Results out of Kafka, as frames for those who send them beside ours.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use rdkafka::Offset;
use serde::Deserialize;

use super::feed::room;
use crate::{Outcome, cluster::read_results};

/// Where a server beside ours finds its results.
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
    /// Something for each room, by its name.
    pub(super) fn for_rooms<T>(&self, make: impl Fn() -> T) -> HashMap<String, T> {
        (0..self.rooms)
            .map(|number| (room(number), make()))
            .collect()
    }

    /// Hands over what comes from now on, for ever: a room, and its frame's text.
    pub(super) fn follow(&self, mut each: impl FnMut(&str, String)) -> Outcome<()> {
        let topics = ["live", "windows"].map(|name| format!("{}.{name}", self.prefix));
        let results = read_results(&self.kafka, &topics, Offset::End)?;
        loop {
            let mut fault = None;
            results.next(
                Duration::from_secs(1),
                |_, value| match serde_json::from_slice::<Head<'_>>(value) {
                    Ok(head) => {
                        let kind = head.emitted_at.map_or("final", |_| "live");
                        let rest = String::from_utf8_lossy(&value[1..]);
                        each(head.room, format!(r#"{{"type":"{kind}",{rest}"#));
                    }
                    Err(error) => fault = Some(error),
                },
            )?;
            if let Some(error) = fault {
                return Err(error.into());
            }
        }
    }
}
