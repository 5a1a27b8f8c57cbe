//! Tables that fit the terminal, a page at a time: a topic has no end to wait for.

use comfy_table::{ContentArrangement, presets};

use super::{Topic, decode::columns};

/// The most rows of a page.
const PAGE_ROWS: usize = 200;

/// See the module.
pub(super) struct Table {
    topic: Topic,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(topic: Topic) -> Self {
        Self {
            topic,
            rows: Vec::new(),
        }
    }

    /// Adds a row, and gives the page that it fills.
    pub(super) fn add(&mut self, row: Vec<String>) -> Option<String> {
        self.rows.push(row);
        match self.rows.len() >= PAGE_ROWS {
            true => self.page(),
            false => None,
        }
    }

    /// What has gathered since the last page.
    pub(super) fn page(&mut self) -> Option<String> {
        if self.rows.is_empty() {
            return None;
        }
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["part", "offset", "time"].iter().chain(columns(self.topic)))
            .add_rows(self.rows.drain(..));
        Some(format!("{table}\n"))
    }
}
