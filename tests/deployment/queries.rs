//! What alerts and dashboards ask Prometheus.

use serde_json::Value;

use super::files::{docker, text};

/// The alerts.
pub fn alerts() -> Vec<Value> {
    let rules = docker("prometheus/alerts.yml");
    let groups = rules["groups"].as_array().unwrap().iter();
    groups
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// The panels that show something.
pub fn panels() -> Vec<Value> {
    let dashboard: Value =
        serde_json::from_str(&text("docker/grafana/dashboards/emostream.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

/// Every question of both, as PromQL.
pub fn questions() -> Vec<String> {
    let of_alerts = alerts().into_iter().map(|alert| alert["expr"].clone());
    let of_panels = panels().into_iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(|target| target["expr"].clone())
    });
    let all = of_alerts.chain(of_panels);
    all.map(|question| {
        let question = question.as_str().unwrap();
        // Grafana puts in a time.
        question.replace("$__rate_interval", "1m")
    })
    .collect()
}
