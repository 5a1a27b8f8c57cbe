//! Reads the files in docker/, and runs the programs that validate them.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Returns the path of a file of the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// Returns the text of a file.
pub fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the Kubernetes manifests.
pub fn manifests() -> Vec<PathBuf> {
    let files = fs::read_dir(path("docker/k8s")).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Returns a command for a program that `make setup` installs. Fails if the program is missing, because a skipped check
/// would look like a passed one.
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

/// Runs a command, and returns its output. Fails with this output if the exit code is not 0.
pub fn good(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {printed}");
    output
}

/// Returns the documents of a YAML file, parsed by the library that the validators use.
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

/// Returns the first document of docker/`name`.
pub fn docker(name: &str) -> Value {
    yaml(&path("docker").join(name)).remove(0)
}

/// Returns the strings of a list.
pub fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    list.iter().map(text).collect()
}
