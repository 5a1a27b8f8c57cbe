//! `emostream generate DIR`: writes the man pages and the completions of shells. `make dist` runs it.
//!
//! It is not a variant of [`super::Command`], because the completions would list it, even if it were hidden.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, Command as Parser, value_parser};
use clap_complete::Shell;

use emostream_app::process::Failure;

pub(super) const NAME: &str = "generate";

/// For each shell the folder, below a prefix such as `/usr`, where it looks for completions, and the name of the file.
const COMPLETIONS: [(Shell, &str, &str); 3] = [
    (
        Shell::Bash,
        "share/bash-completion/completions",
        "emostream",
    ),
    (Shell::Zsh, "share/zsh/site-functions", "_emostream"),
    (
        Shell::Fish,
        "share/fish/vendor_completions.d",
        "emostream.fish",
    ),
];

const MAN_PAGES: &str = "share/man/man1";

const DIR: &str = "dir";

/// Returns the parser of the arguments.
pub(super) fn parser() -> Parser {
    let dir = Arg::new(DIR)
        .value_name("DIR")
        .help("Prefix, for example /usr/local: the files are written to share/ in it")
        .required(true)
        .value_parser(value_parser!(PathBuf));
    Parser::new(NAME)
        .about("Write the man pages and the completions for bash, zsh and fish")
        .hide(true)
        .arg(dir)
}

/// Returns the directory that the arguments name; `None` for another command.
pub(crate) fn directory(matches: &clap::ArgMatches) -> Option<PathBuf> {
    matches.subcommand_matches(NAME)?.get_one(DIR).cloned()
}

/// Writes the files for the commands of `program`.
pub(crate) fn run(program: &Parser, dir: &Path) -> Result<(), Failure> {
    write(program, dir).map_err(|error| {
        Failure::usage(
            "DIR",
            format!("{} cannot be written: {error}", dir.display()),
        )
    })
}

fn write(program: &Parser, prefix: &Path) -> io::Result<()> {
    for (shell, folder, file) in COMPLETIONS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut program.clone(), program.get_name(), &mut script);
        let folder = prefix.join(folder);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(file), script)?;
    }
    let pages = prefix.join(MAN_PAGES);
    fs::create_dir_all(&pages)?;
    clap_mangen::generate_to(program.clone(), pages)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::commands::arguments;

    /// Returns the names of the visible commands, each with those before it: `emostream topics check`.
    fn visible(command: &Parser, path: &str) -> Vec<String> {
        let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
        let below = shown.flat_map(|it| visible(it, &format!("{path} {}", it.get_name())));
        [path.to_owned()].into_iter().chain(below).collect()
    }

    #[test]
    fn each_visible_command_has_a_man_page_and_is_completed() {
        let program = arguments::documented().complete();
        let dir = tempfile::tempdir().unwrap();
        write(&program, dir.path()).unwrap();
        let commands = visible(&program, program.get_name());
        assert!(commands.contains(&"emostream topics check".to_owned()));
        for command in &commands {
            let page = format!("{MAN_PAGES}/{}.1", command.replace(' ', "-"));
            let page = fs::read_to_string(dir.path().join(&page));
            assert!(page.unwrap().contains(".SH OPTIONS"), "{command}");
        }
        let pages = fs::read_dir(dir.path().join(MAN_PAGES)).unwrap();
        assert_eq!(pages.count(), commands.len());
        for (shell, folder, file) in COMPLETIONS {
            let script = fs::read_to_string(dir.path().join(folder).join(file)).unwrap();
            for command in program.get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell} does not complete {name}");
            }
        }
        let bash = fs::read_to_string(dir.path().join(COMPLETIONS[0].1).join(COMPLETIONS[0].2));
        let bash = bash.unwrap();
        let words = bash
            .lines()
            .find_map(|line| line.trim().strip_prefix("opts=\"-"));
        let words: Vec<&str> = words.unwrap().trim_end_matches('"').split(' ').collect();
        for command in program.get_subcommands() {
            assert!(words.contains(&command.get_name()), "{words:?}");
        }
        assert!(!words.contains(&NAME), "a hidden command is completed");
    }
}
