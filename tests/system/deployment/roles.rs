//! The roles that each deployment starts, with their flags.

use std::collections::BTreeSet;

use serde_json::Value;

use super::files::{docker, good, manifests, path, program, texts, yaml};

/// The arguments of a role.
pub type Arguments = Vec<String>;

/// Returns the roles of docker/compose.yaml: each service that runs our image.
pub fn of_compose() -> Vec<Arguments> {
    let compose = docker("compose.yaml");
    let services = compose["services"].as_object().unwrap().values();
    let ours = services.filter(|service| service["image"] == "emostream");
    ours.map(|service| texts(&service["command"])).collect()
}

/// Returns the roles of docker/k8s. The variables in their arguments are expanded, and environment variables are added
/// as flags.
pub fn of_kubernetes() -> Vec<Arguments> {
    let documents: Vec<Value> = manifests().iter().flat_map(|file| yaml(file)).collect();
    let of_kind = |kind: &'static str| documents.iter().filter(move |d| d["kind"] == kind);
    let settings = &of_kind("ConfigMap").next().unwrap()["data"];
    let kafka = settings["EMOSTREAM_KAFKA"].as_str().unwrap();
    let workloads = ["Job", "Deployment", "StatefulSet"].into_iter();
    let containers = workloads.flat_map(|kind| {
        of_kind(kind).flat_map(|workload| {
            let containers = &workload["spec"]["template"]["spec"]["containers"];
            containers.as_array().unwrap().clone()
        })
    });
    let arguments = containers.map(|container| {
        let written = texts(&container["args"]).into_iter();
        let mut arguments: Arguments = written
            .flat_map(|argument| match argument.split_once('=') {
                Some((flag, value)) => vec![flag.to_owned(), value.replace("$(ORDINAL)", "0")],
                None => vec![argument],
            })
            .collect();
        if arguments[0] != "relay" {
            arguments.extend(["--kafka".to_owned(), kafka.to_owned()]);
        }
        arguments
    });
    arguments.collect()
}

/// Returns the roles that docker/cluster.sh starts.
pub fn of_the_script() -> Vec<Arguments> {
    let script = path("docker/cluster.sh");
    let printed = good(program("bash").arg(script).arg("commands")).stdout;
    let lines = String::from_utf8(printed).unwrap();
    let lines = lines
        .lines()
        .map(|line| line.strip_prefix("emostream ").unwrap());
    lines
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
}

/// Returns the arguments of a role without addresses, which differ between machines.
pub fn without_addresses(arguments: &Arguments) -> String {
    let is_address = |word: &str| word.split(',').all(|one| one.contains(':'));
    let shown = arguments.iter().map(|word| match is_address(word) {
        true => "ADDRESS",
        false => word,
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Returns the different roles, by their arguments without addresses.
pub fn kinds(roles: &[Arguments]) -> BTreeSet<String> {
    roles.iter().map(without_addresses).collect()
}
