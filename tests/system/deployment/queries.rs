//! The queries of alerts and dashboards.

use std::collections::BTreeSet;

use serde_json::Value;

use super::files::{docker, text};

/// Returns the alerting rules of Prometheus.
pub fn alerts() -> Vec<Value> {
    let rules = docker("prometheus/alerts.yml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Returns the panels of the dashboard that have queries.
pub fn panels() -> Vec<Value> {
    let dashboard: Value =
        serde_json::from_str(&text("docker/grafana/dashboards/emostream.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

/// Returns the queries of all alerts and panels, in PromQL.
pub fn questions() -> Vec<String> {
    let of_alerts = alerts().into_iter().map(|alert| alert["expr"].clone());
    let of_panels = panels().into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(|target| target["expr"].clone())
    });
    let all = of_alerts.chain(of_panels);
    all.map(|question| {
        let question = question.as_str().unwrap();
        // Grafana replaces this variable by a duration, so we do the same.
        question.replace("$__rate_interval", "1m")
    })
    .collect()
}

/// Returns the metrics in a query, with the names that roles export: those of histograms without `_bucket`, `_sum` or
/// `_count`.
pub fn metrics(question: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = question.split(|c| !is_word(c));
    let ours = words.filter(|word| word.starts_with("emostream_"));
    ours.map(|name| {
        let base = |end| name.strip_suffix(end);
        let of_histogram = base("_bucket")
            .or_else(|| base("_sum"))
            .or_else(|| base("_count"));
        of_histogram.unwrap_or(name).to_owned()
    })
    .collect()
}

/// Returns the metric and the label of each `metric{label="value"}` in a query.
pub fn selectors(question: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (at, _) in question.match_indices("emostream_") {
        let Some((name, rest)) = question[at..].split_once('{') else {
            continue;
        };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            continue;
        }
        let labels = rest.split('}').next().unwrap();
        for label in labels.split(',') {
            let (label, _) = label.split_once(['=', '!', '~']).unwrap();
            found.insert((name.to_owned(), label.trim().to_owned()));
        }
    }
    found
}
