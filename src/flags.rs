//! From arguments and environment to flags: every flag reads `EMOSTREAM_<FLAG>` too, and a mistake is
//! one line.

use std::ffi::OsString;

use clap::{ArgMatches, Command as Parser, CommandFactory, Error, error::ErrorKind};

use crate::commands::Command;

/// What the arguments ask for.
pub(crate) enum Parsed {
    /// A command.
    Run(ArgMatches),
    /// Help or the version.
    Say(String),
    /// Nothing that exists; says which flag and why.
    Refuse(String),
}

/// Reads the arguments, and the environment where a flag is not given.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Parsed {
    match parser().try_get_matches_from(arguments) {
        Ok(matches) => Parsed::Run(matches),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Say(error.to_string()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Parsed::Refuse(
                "say what to do: `emostream up` runs everything, `emostream --help` lists the rest"
                    .to_owned(),
            ),
            _ => Parsed::Refuse(one_line(&error)),
        },
    }
}

fn parser() -> Parser {
    with_environment(Command::command())
}

/// Names the environment variable of every flag after the flag.
fn with_environment(parser: Parser) -> Parser {
    let named = parser.mut_args(|arg| match arg.get_long() {
        Some("help" | "version") | None => arg,
        Some(long) => {
            let variable = format!("EMOSTREAM_{}", long.replace('-', "_").to_uppercase());
            arg.env(variable).hide_env_values(true)
        }
    });
    named.mut_subcommands(with_environment)
}

/// What clap says of a mistake, without its usage block: flag and reason.
pub(crate) fn one_line(error: &Error) -> String {
    let text = error.to_string();
    let said = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = said.flat_map(str::split_whitespace).collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let line = line.split(" For more information").next().unwrap_or(line);
    line.replace(" tip: ", "; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let arguments = ["emostream"].iter().chain(arguments).map(OsString::from);
        match parse(arguments) {
            Parsed::Refuse(line) => line,
            Parsed::Say(text) => panic!("said: {text}"),
            Parsed::Run(_) => panic!("accepted"),
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        parser().debug_assert();
    }

    #[test]
    fn every_flag_reads_the_environment() {
        for command in parser().get_subcommands() {
            for flag in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let long = flag.get_long().unwrap();
                let expected = long.replace('-', "_").to_uppercase();
                if long != "help" {
                    let variable = flag.get_env().unwrap().to_string_lossy().into_owned();
                    assert_eq!(variable, format!("EMOSTREAM_{expected}"));
                }
            }
        }
    }

    #[test]
    fn the_help_of_every_command_ends_with_examples_that_are_accepted() {
        for command in parser().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string);
            let help = help.unwrap_or_default();
            let lines = help
                .lines()
                .filter_map(|line| line.strip_prefix("  emostream "));
            let examples: Vec<&str> = lines
                .map(|line| line.split(" #").next().unwrap_or(line))
                .map(|line| line.split(" | ").next().unwrap_or(line))
                .collect();
            assert!(!examples.is_empty(), "{name} has no example");
            for example in examples {
                assert!(example.starts_with(name), "{example}");
                let words = ["emostream"].into_iter().chain(example.split_whitespace());
                match parse(words.map(OsString::from)) {
                    Parsed::Run(_) => {}
                    Parsed::Refuse(why) => panic!("{example}: {why}"),
                    Parsed::Say(said) => panic!("{example}: {said}"),
                }
            }
        }
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_flag() {
        for (arguments, flag) in [
            (&["up", "--window", "soon"][..], "--window"),
            (&["up", "--lateness"], "--lateness"),
            (&["up", "--windov", "2s"], "--windov"),
            (&["dataflow", "-w", "none", "--kafka", "h:1"], "--workers"),
            (&["load", "--url", "http://h", "--rate", "fast"], "--rate"),
            (&["ingest"], "--kafka"),
            (&["ingest", "--kafka", "http://h:9092"], "--kafka"),
            (&["relay"], "--upstream"),
            (&["relay", "--upstream", "publisher"], "--upstream"),
            (&["relay", "--upstream", "a:1,b:0"], "--upstream"),
            (
                &["relay", "--upstream", "a:1", "--max-relays", "0"],
                "--max-relays",
            ),
            (
                &["publisher", "--kafka", "a:1", "--relay-listen", "9000"],
                "--relay-listen",
            ),
            (&["frobnicate"], "frobnicate"),
            (&[], "emostream up"),
        ] {
            let line = refused(arguments);
            assert!(line.contains(flag), "{line}");
            assert!(!line.contains('\n') && line.len() < 300, "{line}");
        }
    }
}
