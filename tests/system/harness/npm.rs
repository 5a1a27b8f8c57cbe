//! The program npm, which installs JavaScript packages that tests use.

use std::{path::Path, process::Command};

/// Runs npm in a folder; fails if its exit code is not 0.
pub fn npm(folder: &Path, arguments: &[&str]) {
    let output = Command::new("npm")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("this test needs npm ({error}): apt-get install npm"));
    let printed = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "npm {arguments:?}: {printed}{errors}"
    );
}

/// Installs exactly the packages of the lock file in a folder.
pub fn install(folder: &Path) {
    npm(folder, &["ci", "--no-audit", "--no-fund"]);
}
