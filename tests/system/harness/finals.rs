//! Received finals, and assertions about them.

use std::collections::BTreeMap;

use serde_json::Value;

/// A final frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Final {
    pub id: String,
    pub start: u64,
    pub end: u64,
    pub total: u64,
    pub counts: BTreeMap<String, u64>,
    pub totals: BTreeMap<String, u64>,
    /// The whole frame.
    pub frame: Value,
}

impl Final {
    /// Parses a frame. Returns `None` for frames of other types.
    pub fn of(frame: &Value) -> Option<Final> {
        (frame["type"] == "final").then(|| Final {
            id: frame["id"].as_str().unwrap().to_owned(),
            start: frame["start"].as_u64().unwrap(),
            end: frame["end"].as_u64().unwrap(),
            total: frame["total"].as_u64().unwrap(),
            counts: counts(&frame["counts"]),
            totals: counts(&frame["totals"]),
            frame: frame.clone(),
        })
    }

    /// Returns the offset of the final's record in Kafka, which is a part of its id.
    pub fn offset(&self) -> u64 {
        self.id.split_once('-').unwrap().1.parse().unwrap()
    }

    /// Asserts the invariants of a final with windows of `window_ms` and swarms of `swarm_size`.
    pub fn check(&self, window_ms: u64, swarm_size: u64) {
        assert_eq!(self.start % window_ms, 0, "aligned: {self:?}");
        assert_eq!(self.end - self.start, window_ms, "{self:?}");
        assert_eq!(self.counts.values().sum::<u64>(), self.total, "{self:?}");
        for tally in self.frame["counts"].as_array().unwrap() {
            let of = |name: &str| tally[name].as_u64().unwrap();
            assert_eq!(of("swarms"), of("count") / swarm_size, "{self:?}");
            assert_eq!(of("loose"), of("count") % swarm_size, "{self:?}");
        }
    }
}

/// Parses a list of `{emoji, count}` into a map.
pub fn counts(list: &Value) -> BTreeMap<String, u64> {
    let entry = |tally: &Value| {
        let emoji = tally["emoji"].as_str().unwrap().to_owned();
        (emoji, tally["count"].as_u64().unwrap())
    };
    list.as_array().unwrap().iter().map(entry).collect()
}

/// Returns the sum of the counts of several finals, by emoji.
pub fn sum<'a>(finals: impl IntoIterator<Item = &'a Final>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (emoji, count) in finals.into_iter().flat_map(|f| &f.counts) {
        *sum.entry(emoji.clone()).or_default() += count;
    }
    sum
}
