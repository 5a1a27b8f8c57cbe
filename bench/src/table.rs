//! Prints results as a Markdown table, for a terminal and for README.md.

use std::time::Duration;

use crate::{
    measured_process::Usage,
    rounds::{Measured, ratio},
};

/// Returns the median of `figures`.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = |at: usize| figures.get(at).copied().unwrap_or(f64::NAN);
    let count = figures.len();
    f64::midpoint(middle(count.saturating_sub(1) / 2), middle(count / 2))
}

/// Returns the quantile of `figures` at `share`, which is between 0 and 1.
pub(crate) fn quantile(figures: &mut [f64], share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = ((figures.len() as f64 * share) as usize).min(figures.len().saturating_sub(1));
    figures.get(at).copied().unwrap_or(f64::NAN)
}

/// The resources that one run used, and the comparison of the results of the run with the expected results.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) usage: Usage,
    pub(crate) wall: Duration,
    pub(crate) peak_mb: f64,
    pub(crate) comparison: String,
}

impl Run {
    fn cpu(&self) -> f64 {
        self.usage.cpu().as_secs_f64()
    }
}

impl Measured for Run {
    const COLUMNS: &str =
        "CPU s | in the kernel | wall s | waits | preempted | page faults | peak MB | tallies";

    fn cells(&self) -> String {
        let usage = &self.usage;
        format!(
            "{:.2} | {:.2} | {:.1} | {} | {} | {} | {:.0} | {}",
            self.cpu(),
            usage.system.as_secs_f64(),
            self.wall.as_secs_f64(),
            usage.waits,
            usage.preemptions,
            usage.page_faults,
            self.peak_mb,
            self.comparison
        )
    }
}

/// The runs of one program.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) runs: Vec<Run>,
}

impl Row {
    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure).collect())
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

/// Prints the medians of each row. One column compares CPU times: in each round, the CPU time of the row `ours` is
/// divided by the CPU time of the other row. The column shows the median of these ratios.
pub(crate) fn print(events: u64, rows: &[Row], ours: &Row) {
    println!("| | runs | CPU s | M events/CPU s | ours / its CPU | wall s | peak MB | tallies |");
    println!("|---|---|---|---|---|---|---|---|");
    for row in rows {
        let cpu = row.median(Run::cpu);
        println!(
            "| {} | {} | {cpu:.2} | {:.3} | {} | {:.1} | {:.0} | {} |",
            row.name,
            row.runs.len(),
            events as f64 / 1e6 / cpu,
            ratio(&ours.runs, &row.runs, Run::cpu),
            row.median(|run| run.wall.as_secs_f64()),
            row.median(|run| run.peak_mb),
            row.comparison(),
        );
    }
}
