//! Which roles each deployment starts, and with which flags.

use std::collections::BTreeSet;

use super::files::{docker, good, path, program, texts};

/// The arguments of a role.
pub type Arguments = Vec<String>;

/// The roles of docker/compose.yaml: each service that runs our image.
pub fn of_compose() -> Vec<Arguments> {
    let compose = docker("compose.yaml");
    let services = compose["services"].as_object().unwrap().values();
    let ours = services.filter(|service| service["image"] == "emostream");
    ours.map(|service| texts(&service["command"])).collect()
}

/// The roles that docker/cluster.sh starts.
pub fn of_the_script() -> Vec<Arguments> {
    let script = path("docker/cluster.sh");
    let said = good(program("bash").arg(script).arg("commands")).stdout;
    let lines = String::from_utf8(said).unwrap();
    let lines = lines
        .lines()
        .map(|line| line.strip_prefix("emostream ").unwrap());
    lines
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
}

/// A role without what differs from machine to machine: addresses.
pub fn without_addresses(arguments: &Arguments) -> String {
    let is_address = |word: &str| word.split(',').all(|one| one.contains(':'));
    let shown = arguments.iter().map(|word| match is_address(word) {
        true => "ADDRESS",
        false => word,
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// The set of them.
pub fn kinds(roles: &[Arguments]) -> BTreeSet<String> {
    roles.iter().map(without_addresses).collect()
}
