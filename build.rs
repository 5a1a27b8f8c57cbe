//! Sets the revision of the build, for `emostream_build_info`.

use std::process::Command;

/// A build without the repository, as in docker/Dockerfile, names the revision here.
const REVISION: &str = "EMOSTREAM_REVISION";

fn main() {
    println!("cargo:rerun-if-env-changed={REVISION}");
    let given = std::env::var(REVISION).ok().filter(|text| !text.is_empty());
    let revision = given.or_else(|| {
        // Both change with each commit: the branch that is checked out, and what it points at.
        for name in [
            "HEAD",
            &git(&["symbolic-ref", "-q", "HEAD"]).unwrap_or_default(),
        ] {
            if let Some(file) = git(&["rev-parse", "--git-path", name]) {
                println!("cargo:rerun-if-changed={file}");
            }
        }
        git(&["rev-parse", "--short=12", "HEAD"])
    });
    let revision = revision.as_deref().unwrap_or("unknown");
    println!("cargo:rustc-env={REVISION}={revision}");
}

/// What git prints, if there is one and a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
