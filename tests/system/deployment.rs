//! Tests of the files for operators: Compose, Kubernetes, alerts and dashboards name existing roles, flags and metrics,
//! and each file is valid for the program that reads it.

mod cluster;
mod files;
mod queries;
mod roles;

use std::{collections::BTreeSet, fs, process::Command, thread};

use serde_json::{Value, json};

use files::{docker, good, manifests, path, program, text};
use roles::Arguments;

use crate::harness::node;

#[test]
fn the_compose_file_is_one() {
    let compose = path("docker/compose.yaml");
    good(
        program("check-jsonschema")
            .args(["--builtin-schema", "vendor.compose-spec"])
            .arg(&compose),
    );
    // If Docker Compose is installed, it validates the file, too.
    let real = Command::new("docker").args(["compose", "version"]).output();
    if real.is_ok_and(|version| version.status.success()) {
        let config = ["config", "--quiet"];
        good(
            program("docker")
                .args(["compose", "-f"])
                .arg(compose)
                .args(config),
        );
    }
}

#[test]
fn the_manifests_are_kubernetes_own() {
    good(
        program("kubernetes-validate")
            .args(["--strict", "--quiet"])
            .args(manifests()),
    );
}

#[test]
fn the_alerts_fire_when_they_should_and_are_silent_otherwise() {
    let directory = path("docker/prometheus");
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ] {
        good(program("promtool").args(arguments).current_dir(&directory));
    }
}

#[test]
fn each_alert_says_what_to_do_and_has_a_chapter_in_the_runbook() {
    let runbook = text("docs/runbook.md");
    let chapters: BTreeSet<&str> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let mut alerts = BTreeSet::new();
    for alert in queries::alerts() {
        let name = alert["alert"].as_str().unwrap().to_owned();
        for annotation in ["summary", "action"] {
            let line = alert["annotations"][annotation]
                .as_str()
                .unwrap_or_default();
            assert!(
                !line.is_empty() && !line.contains('\n'),
                "{name}: {annotation}"
            );
        }
        let severity = alert["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("page" | "ticket")), "{name}");
        alerts.insert(name);
    }
    let alerts: BTreeSet<&str> = alerts.iter().map(String::as_str).collect();
    assert_eq!(chapters, alerts);
}

#[test]
fn each_panel_says_what_it_shows_in_promql() {
    for panel in queries::panels() {
        let title = panel["title"].as_str().unwrap();
        assert!(panel["description"].as_str().is_some(), "{title}");
        let unit = &panel["fieldConfig"]["defaults"]["unit"];
        assert!(unit.as_str().is_some(), "{title} has no unit");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} asks nothing");
    }
    // promtool validates PromQL only as a part of rules, so each query becomes a rule.
    let rule = |(at, question)| json!({"record": format!("query:{at}"), "expr": question});
    let rules: Vec<Value> = queries::questions()
        .into_iter()
        .enumerate()
        .map(rule)
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rules.yml");
    let groups = json!({"groups": [{"name": "queries", "rules": rules}]});
    fs::write(&file, groups.to_string()).unwrap();
    good(program("promtool").args(["check", "rules"]).arg(file));
}

#[test]
fn grafana_is_provisioned_with_what_the_dashboard_asks() {
    let source = docker("grafana/provisioning/datasources/prometheus.yaml");
    let source = source["datasources"][0]["uid"].as_str().unwrap().to_owned();
    for panel in queries::panels() {
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], source.as_str());
        }
    }
    let compose = docker("compose.yaml");
    let mounts = files::texts(&compose["services"]["grafana"]["volumes"]);
    let provider = docker("grafana/provisioning/dashboards/emostream.yaml");
    let looked_in = provider["providers"][0]["options"]["path"]
        .as_str()
        .unwrap();
    let mounted = format!("./grafana/dashboards:{looked_in}:ro");
    assert!(mounts.contains(&mounted), "{mounts:?}");
}

#[test]
fn prometheus_scrapes_every_role_of_the_compose_file() {
    let compose = docker("compose.yaml");
    let services = compose["services"].as_object().unwrap().iter();
    let ours = services
        .filter(|(name, service)| service["image"] == "emostream" && name.as_str() != "topics");
    let ours: BTreeSet<String> = ours.map(|(name, _)| format!("{name}:9464")).collect();
    let scraped = docker("prometheus/prometheus.yml");
    let jobs = scraped["scrape_configs"].as_array().unwrap().iter();
    let scraped: BTreeSet<String> = jobs
        .flat_map(|job| files::texts(&job["static_configs"][0]["targets"]))
        .collect();
    assert_eq!(scraped, ours);
}

#[test]
fn docker_and_the_script_start_the_same_roles_with_the_same_flags() {
    let of_script = roles::kinds(&roles::of_the_script());
    let of_compose = roles::kinds(&roles::of_compose());
    let only_in_script: Vec<&String> = of_script.difference(&of_compose).collect();
    // The script starts an additional level of relays.
    assert_eq!(
        only_in_script,
        ["relay --upstream ADDRESS --listen ADDRESS --admin ADDRESS"]
    );
    let only_in_compose: Vec<&String> = of_compose.difference(&of_script).collect();
    assert!(only_in_compose.is_empty(), "{only_in_compose:?}");
}

/// The address of a Kafka or a publisher that does not exist.
const NOBODY: &str = "127.0.0.1:1";

/// Returns the arguments of the role with other addresses. Its Kafka or upstream does not exist, and the address at
/// which it listens is free.
fn alone(role: Arguments, token: &str) -> Arguments {
    let mut words = role.into_iter();
    let mut arguments = Vec::new();
    while let Some(word) = words.next() {
        let instead = match word.as_str() {
            "--kafka" | "--upstream" => Some(NOBODY),
            "--listen" | "--admin" | "--relay-listen" => Some("127.0.0.1:0"),
            "--relay-token-file" | "--cluster-token-file" => Some(token),
            _ => None,
        };
        arguments.push(word);
        if let Some(instead) = instead {
            words.next().unwrap();
            arguments.push(instead.to_owned());
        }
    }
    arguments
}

#[test]
fn a_container_without_its_peers_names_them_in_its_last_line_and_ends_with_69() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "0123456789abcdef0123456789abcdef").unwrap();
    let token = token.to_str().unwrap();
    let written = [roles::of_compose(), roles::of_kubernetes()].concat();
    let roles: BTreeSet<Arguments> = written.into_iter().map(|role| alone(role, token)).collect();
    let names: BTreeSet<&str> = roles.iter().map(|role| role[0].as_str()).collect();
    let all = ["dataflow", "ingest", "publisher", "relay", "topics"];
    assert_eq!(names, BTreeSet::from(all));
    thread::scope(|scope| {
        for role in &roles {
            scope.spawn(move || {
                let role: Vec<&str> = role.iter().map(String::as_str).collect();
                // The image sets the role's own addresses in the environment. The test sets free ones instead.
                let mut command = node::emostream(&role);
                command.env("EMOSTREAM_LISTEN", "127.0.0.1:0");
                command.env("EMOSTREAM_ADMIN", "127.0.0.1:0");
                let output = command.output().unwrap();
                let printed = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(69), "{role:?}: {printed}");
                let last = printed.lines().last().unwrap();
                assert!(last.starts_with("emostream: "), "{role:?}: {printed}");
                assert!(last.contains(NOBODY), "{role:?}: {printed}");
            });
        }
    });
}
