//! Tables that fit the terminal, a page at a time: a topic has no end to wait for.
//!
//! Invariant: columns stand below each other from page to page. The head comes again after some rows, so
//! that it is never far above, and not with each record that comes to a follower.

use comfy_table::{
    CellAlignment, ColumnConstraint::LowerBoundary, ContentArrangement, Width, presets,
};

use super::{Topic, decode::columns};

/// The most rows of a page.
const PAGE_ROWS: usize = 200;
/// Rows under one head: a screenful.
const HEAD_ROWS: usize = 40;
/// Partition and offset are numbers.
const NUMBERS: usize = 2;

/// Around a cell's content.
const PADDING: u16 = 2;
/// What the last column, of counts, needs to be read.
const LAST_COLUMNS: u16 = 16;

/// See the module.
pub(super) struct Table {
    topic: Topic,
    rows: Vec<Vec<String>>,
    /// Since the last head; `None` before the first.
    under_head: Option<usize>,
    /// How wide each column has been.
    widths: Vec<u16>,
}

impl Table {
    pub(super) fn new(topic: Topic) -> Self {
        Self {
            topic,
            rows: Vec::new(),
            under_head: None,
            widths: Vec::new(),
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
            .set_content_arrangement(ContentArrangement::Dynamic);
        let headed = self.under_head.is_none_or(|rows| rows >= HEAD_ROWS);
        let rows = self.rows.len();
        if headed {
            table.set_header(["part", "offset", "time"].iter().chain(columns(self.topic)));
        }
        table.add_rows(self.rows.drain(..));
        self.under_head = Some(if headed {
            rows
        } else {
            self.under_head.unwrap_or(0) + rows
        });
        self.align(&mut table);
        Some(format!("{table}\n"))
    }

    /// Makes each column as wide as it has been, but the last, which takes what is left.
    fn align(&mut self, table: &mut comfy_table::Table) {
        let now = table.column_max_content_widths();
        self.widths.resize(now.len(), 0);
        for (width, now) in self.widths.iter_mut().zip(now) {
            *width = now.max(*width);
        }
        let last = self.widths.len().saturating_sub(1);
        // On a terminal that has no room for that, cells wrap as they must.
        let fixed: u16 = self.widths[..last]
            .iter()
            .map(|width| width + PADDING)
            .sum();
        let fits = table.width().is_none_or(|all| fixed + LAST_COLUMNS <= all);
        for (at, column) in table.column_iter_mut().enumerate() {
            if at < NUMBERS {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if at < last && fits {
                let width = self.widths[at] + PADDING;
                column.set_constraint(LowerBoundary(Width::Fixed(width)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    fn row(offset: u64, counts: &str) -> Vec<String> {
        let cells = [
            "0",
            &offset.to_string(),
            "20:15:00.000",
            "match-7",
            "w",
            "1",
            counts,
        ];
        cells.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_follower_sees_one_head_and_columns_that_stay() {
        let mut table = Table::new(Topic::Windows);
        table.add(row(123_456, "🔥 1"));
        let first = table.page().unwrap();
        assert!(first.contains("offset"), "{first}");
        table.add(row(7, "🔥 22"));
        let second = table.page().unwrap();
        assert!(!second.contains("offset"), "{second}");
        let column = |page: &str| page.lines().last().unwrap().find("match-7").unwrap();
        assert_eq!(column(&first), column(&second), "{first}{second}");
        assert_eq!(table.page(), None);
        for offset in 0..HEAD_ROWS as u64 {
            table.add(row(offset, ""));
        }
        assert!(!table.page().unwrap().contains("offset"));
        table.add(row(8, ""));
        assert!(table.page().unwrap().contains("offset"));
    }
}
