//! Prints results as a Markdown table, for a terminal and for README.md.

use std::time::Duration;

/// Returns the median of `figures`.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the quantile of `figures` at `share`, which is between 0 and 1.
pub(crate) fn quantile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = ((figures.len() as f64 * share) as usize).min(figures.len().saturating_sub(1));
    figures.get(at).copied().unwrap_or(f64::NAN)
}

/// Resources that one run used, and the comparison of its results with the expected ones.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) peak_mb: f64,
    pub(crate) comparison: String,
}

/// The runs of one program.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) runs: Vec<Run>,
}

impl Row {
    /// Returns millions of events for each second of CPU time.
    pub(crate) fn rate(&self, events: u64) -> f64 {
        events as f64 / 1e6 / self.cpu()
    }

    pub(crate) fn cpu(&self) -> f64 {
        median(self.runs.iter().map(|run| run.cpu.as_secs_f64()).collect())
    }

    fn wall(&self) -> f64 {
        median(self.runs.iter().map(|run| run.wall.as_secs_f64()).collect())
    }

    fn peak_mb(&self) -> f64 {
        median(self.runs.iter().map(|run| run.peak_mb).collect())
    }

    fn comparison(&self) -> String {
        let mut comparisons: Vec<&str> = self
            .runs
            .iter()
            .map(|run| run.comparison.as_str())
            .collect();
        comparisons.sort_unstable();
        comparisons.dedup();
        comparisons.join("; ")
    }
}

/// Prints the rows. One column has the CPU time of the row `ours`, divided by the CPU time of each row.
pub(crate) fn print(events: u64, rows: &[Row], ours: &str) {
    let own = rows
        .iter()
        .find(|row| row.name == ours)
        .map_or(f64::NAN, Row::cpu);
    println!("| | runs | CPU s | M events/CPU s | ours / its CPU | wall s | peak MB | tallies |");
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        println!(
            "| {} | {} | {:.2} | {:.3} | {:.2} | {:.1} | {:.0} | {} |",
            row.name,
            row.runs.len(),
            row.cpu(),
            row.rate(events),
            own / row.cpu(),
            row.wall(),
            row.peak_mb(),
            row.comparison(),
        );
    }
}
