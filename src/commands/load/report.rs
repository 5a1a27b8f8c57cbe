//! The summary of a run, for people.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{ledger::Sent, probe::Probed};

/// What was sent, what was answered, how long it took.
pub(super) fn sent(sent: &Sent, probed: Option<&Probed>) -> String {
    let mut text = String::new();
    let accepted: u64 = sent
        .expected
        .values()
        .map(|expected| expected.accepted)
        .sum();
    let requests: u64 = sent.statuses.values().sum();
    let statuses: Vec<String> = sent
        .statuses
        .iter()
        .map(|(s, n)| format!("{n} × {s}"))
        .collect();
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "reactions  {accepted} accepted in {requests} requests: {}",
        statuses.join(", ")
    );
    let _ = writeln!(text, "answers    {}", percentiles(&sent.latency_us));
    if let Some(probed) = probed {
        let tries = probed.shown_us.len();
        let _ = writeln!(
            text,
            "to screen  {} ({tries} tries)",
            percentiles(&probed.shown_us)
        );
        if probed.missed + probed.unsent > 0 {
            let _ = writeln!(
                text,
                "           {} never shown, {} not accepted",
                probed.missed, probed.unsent
            );
        }
    }
    text
}

fn percentiles(us: &Histogram<u64>) -> String {
    if us.is_empty() {
        return "none".to_owned();
    }
    let ms = |us: u64| us as f64 / 1000.0;
    format!(
        "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        ms(us.value_at_quantile(0.5)),
        ms(us.value_at_quantile(0.99)),
        ms(us.max()),
    )
}
