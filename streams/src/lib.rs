//! A stream processing engine on timely dataflow. It reads records from a log, groups their events by event time, and
//! writes the results to the log exactly once.
//!
//! ```text
//!  source ─▶ partial counts ─▶ operators of the application ─▶ results ─▶ sink ─▶ [finals] [tables]
//!    │  partitions over workers, event time                                │       [rejected] [progress]
//!    └─ rejected records, marks of progress ───────────────────────────────┘   one transaction per close
//! ```
//!
//! An [application](topology::Application) has a [topology], which declares what is read, counted and written, and a
//! [format](source::format::Format), which decodes records into events; [`runtime::run::run`] runs it. All state is in
//! the log. The progress record contains the offsets from which a restart reads, and is written in the same transaction
//! as the results.
//!
//! The modules are in layers, listed here from top to bottom. A file imports only from lower layers; a unit test checks
//! this:
//!
//! ```text
//!  prelude > simulation > runtime > topology > standby > recovery > config > cluster source operators > sink > progress
//!  > time > stop > error > aggregate metrics mismatch topics
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod aggregate;
pub mod cluster;
pub mod config;
mod error;
pub mod metrics;
pub mod mismatch;
pub mod operators;
pub mod prelude;
pub mod progress;
pub mod recovery;
pub mod runtime;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
pub mod sink;
pub mod source;
pub mod standby;
mod stop;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod topics;
pub mod topology;

pub use error::StreamsError;
pub use stop::Stop;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    /// The layers of the crate from top to bottom, separated by `>`. Modules of one layer do not import each other.
    const LAYERS: &str = "prelude > simulation > runtime > topology > standby > recovery > config > cluster source \
                          operators > sink > progress > time > stop > error > aggregate metrics mismatch topics";

    /// Types that the root of the crate re-exports, each with the module that defines it.
    const ROOT: [(&str, &str); 2] = [("Stop", "stop"), ("StreamsError", "error")];

    /// The layers of the files in the folder `cluster`, from top to bottom.
    const CLUSTER: &str =
        "group > event_loop > join > coordinator > handshake > wire peer > config";

    fn layer(layers: &str, module: &str) -> usize {
        let mut layers = layers.split(" > ").map(|layer| layer.split(' '));
        let found = layers.position(|mut layer| layer.any(|it| it == module));
        found.unwrap_or_else(|| panic!("{module:?} is in no layer"))
    }

    /// Returns the names that are imported by the text after `crate::` or `super::`: one name, or the names of a group
    /// in braces.
    fn imported(rest: &str) -> Vec<&str> {
        let name = |text| str::split(text, |c: char| !c.is_alphanumeric() && c != '_').next();
        let Some(group) = rest.strip_prefix('{') else {
            return name(rest).into_iter().collect();
        };
        let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = at + 1,
                _ if at == start && c.is_whitespace() => start = at + 1,
                _ if at == start => names.extend(name(&group[at..])),
                _ => {}
            }
        }
        names
    }

    /// Returns the source files in the folder `src` of this package, each with the name of its top-level module.
    fn files(src: &str) -> Vec<(String, PathBuf)> {
        fn below(path: &Path, files: &mut Vec<PathBuf>) {
            match path.is_dir() {
                true => fs::read_dir(path)
                    .unwrap()
                    .for_each(|it| below(&it.unwrap().path(), files)),
                false => files.push(path.to_owned()),
            }
        }
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join(src);
        let mut files = Vec::new();
        below(&src, &mut files);
        let module = |path: PathBuf| {
            let first = path.strip_prefix(&src).unwrap().iter().next().unwrap();
            let name = first.to_str().unwrap().trim_end_matches(".rs").to_owned();
            (name, path)
        };
        files.into_iter().map(module).collect()
    }

    #[test]
    fn the_modules_of_a_group_are_found() {
        let group = "{\n    a::{b, c::d},\n    E, f_g::h,\n};";
        assert_eq!(imported(group), ["a", "E", "f_g"]);
        assert_eq!(imported("a::b;"), ["a"]);
    }

    #[test]
    fn no_file_imports_upward() {
        let mut imports = 0;
        for (module, path) in files("src") {
            if ["lib", "testing"].contains(&module.as_str()) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for name in text.split("crate::").skip(1).flat_map(imported) {
                let of_root = ROOT.iter().find(|(of, _)| *of == name);
                let name = of_root.map_or(name, |(_, module)| module);
                if name != "testing" {
                    assert!(
                        name == module || layer(LAYERS, name) > layer(LAYERS, &module),
                        "{path:?} imports {name}"
                    );
                    imports += 1;
                }
            }
        }
        assert!(imports > 50, "only {imports} imports were checked");
    }

    #[test]
    fn no_file_of_the_cluster_imports_upward() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cluster");
        for file in CLUSTER.split([' ', '>']).filter(|file| !file.is_empty()) {
            let text = fs::read_to_string(folder.join(file).with_extension("rs")).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            for name in code.split("super::").skip(1).flat_map(imported) {
                let below = layer(CLUSTER, name) > layer(CLUSTER, file);
                assert!(below, "{file:?} imports {name}");
            }
        }
    }

    #[test]
    fn the_engine_names_nothing_that_an_application_counts() {
        let words = ["emoji", "reaction", "\u{72}oom", "swarm"];
        let engine = files("src")
            .into_iter()
            .filter(|(module, _)| module != "lib");
        for (_, path) in engine.chain(files("app/src")) {
            let text = fs::read_to_string(&path).unwrap().to_lowercase();
            for word in words {
                assert!(!text.contains(word), "{path:?} names {word:?}");
            }
        }
    }
}
