//! A table that is not wider than the terminal. It is printed in pages, because a topic that is followed has no end.
//!
//! Invariant: columns keep their position from page to page, as long as no wider cell follows. The header is repeated
//! after [`HEAD_ROWS`] rows and not on each page: with `--follow` a page may have a single row.

use comfy_table::{
    CellAlignment, ColumnConstraint::LowerBoundary, ContentArrangement, Width, presets,
};

use super::{Topic, decode::columns};

/// Maximum number of rows of a page.
const PAGE_ROWS: usize = 200;
/// Number of rows after which the header is repeated: about the height of a terminal.
const HEAD_ROWS: usize = 40;
/// Number of columns that contain numbers, which are aligned to the right: partition and offset.
const NUMBERS: usize = 2;

/// Number of blank characters around the content of a cell.
const PADDING: u16 = 2;
/// Minimum width of the last column, which contains the counts, in characters.
const LAST_COLUMNS: u16 = 16;

/// A table that is printed in pages.
pub(super) struct Table {
    topic: Topic,
    rows: Vec<Vec<String>>,
    /// Number of rows since the last header; `None` before the first header.
    under_head: Option<usize>,
    /// The greatest width that each column has had so far.
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

    /// Adds a row. Returns the text of a page if the page is full now.
    pub(super) fn add(&mut self, row: Vec<String>) -> Option<String> {
        self.rows.push(row);
        match self.rows.len() >= PAGE_ROWS {
            true => self.page(),
            false => None,
        }
    }

    /// Returns the text of a page with all rows since the last page; `None` if there are none.
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

    /// Sets the width of each column to the greatest width that it had so far. The last column gets the rest.
    fn align(&mut self, table: &mut comfy_table::Table) {
        let now = table.column_max_content_widths();
        self.widths.resize(now.len(), 0);
        for (width, now) in self.widths.iter_mut().zip(now) {
            *width = now.max(*width);
        }
        let last = self.widths.len().saturating_sub(1);
        // On a terminal that is too narrow for these widths no width is set, and comfy-table decides where cells wrap.
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
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
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
    fn a_followed_table_has_one_header_and_columns_that_keep_their_position() {
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
