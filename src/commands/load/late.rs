//! Reads from the metrics of the dataflow how many reactions it has rejected as late.

use std::time::Duration;

use crate::client::{Answer, Connections, Endpoint};

const METRIC: &str = "emostream_dataflow_late_total";
const LIMIT: Duration = Duration::from_secs(2);

/// A reader of the metrics of all processes of the dataflow. If one of them cannot be read, the number of late
/// reactions is unknown, and late reactions count as lost.
pub(super) struct Counter(Vec<Connections>);

impl Counter {
    /// Creates a reader of the metrics at the admin addresses `processes`.
    pub(super) fn new(processes: &[Endpoint]) -> Self {
        let poster = |process: &Endpoint| Connections::new(process.clone(), 1, LIMIT);
        Self(processes.iter().map(poster).collect())
    }

    pub(super) async fn read(&self) -> Option<u64> {
        let mut late = 0;
        for process in &self.0 {
            match process.get("/metrics").await {
                Answer::Status(status, body) if status.is_success() => {
                    late += sum(&String::from_utf8_lossy(&body))?;
                }
                _ => return None,
            }
        }
        Some(late)
    }

    /// Returns how many reactions were late since the count was `before`; `None` if this is unknown. If the count is
    /// lower now, the dataflow was restarted and has counted from 0.
    pub(super) async fn since(&self, before: Option<u64>) -> Option<u64> {
        let (now, before) = (self.read().await?, before?);
        Some(now.checked_sub(before).unwrap_or(now))
    }
}

/// Returns the sum of the metric over its labels; `None` if it is missing.
fn sum(metrics: &str) -> Option<u64> {
    let samples = metrics.lines().filter_map(|line| line.strip_prefix(METRIC));
    let values = samples.filter_map(|rest| rest.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.map(|value| value as u64).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_is_summed_over_its_labels() {
        let text = format!("# HELP {METRIC} x\n{METRIC} 3\n{METRIC}{{worker=\"1\"}} 4\nother 9\n");
        assert_eq!(sum(&text), Some(7));
        assert_eq!(sum("other 9\n"), None);
    }
}
