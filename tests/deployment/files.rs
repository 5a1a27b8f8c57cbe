//! The files in docker/, as values, and the programs that judge them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Its text.
pub fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The manifests for Kubernetes.
pub fn manifests() -> Vec<PathBuf> {
    let files = fs::read_dir(path("docker/k8s")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// A program that `make setup` has installed. A check that is left out proves nothing, so it must be there.
pub fn program(name: &str) -> Command {
    let own = path("target/checks/bin").join(name);
    let found = if own.exists() {
        own
    } else {
        PathBuf::from(name)
    };
    let answers = Command::new(&found)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(
        answers.is_ok(),
        "{name} is missing; install what the tests need with: make setup"
    );
    Command::new(found)
}

/// Fails, with all that was said, unless it ended well.
pub fn good(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// The documents of a YAML file, by the reader that the validators use.
pub fn yaml(file: &Path) -> Vec<Value> {
    const CONVERT: &str =
        "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)";
    let mut child = program("python")
        .args(["-c", CONVERT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let yaml = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    child.stdin.take().unwrap().write_all(&yaml).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", file.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The first document of docker/`name`.
pub fn docker(name: &str) -> Value {
    yaml(&path("docker").join(name)).remove(0)
}

/// The texts of a list.
pub fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter().map(text).collect()
}
