//! Parses the arguments of the program. Each flag can also be set by the environment variable `EMOSTREAM_<FLAG>`. An
//! error message is one line.
//!
//! Invariants: an empty variable counts as not set. No variable has two meanings: if a flag of a tool means something
//! else than the flag of a server with the same name, the variable of the tool's flag contains the name of the tool.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command as Parser, CommandFactory, Error, error::ErrorKind,
};

use super::{Command, generate};

/// The tools whose environment variables contain the name of the tool, for example `EMOSTREAM_LOAD_RATE`.
const OWN_VARIABLES: [&str; 3] = ["load", "inspect", "reset"];

/// The flags that mean the same for every command, so that their variables do not contain the name of a tool.
const COMMON_FLAGS: [&str; 7] = [
    "kafka",
    "kafka-config",
    "kafka-property",
    "data",
    "topic-prefix",
    "verbose",
    "log-format",
];

/// The result of parsing the arguments.
pub(crate) enum Parsed {
    /// The command to run.
    Run(ArgMatches),
    /// Write the man pages and completions to this directory.
    Generate(PathBuf),
    /// Help or the version, to be printed.
    Print(String),
    /// The error, which names the flag and the reason.
    Invalid(String),
}

/// Parses the arguments, and the environment variables of flags that are not in the arguments.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Parsed {
    let parser = parser().subcommand(generate::parser());
    match parser.try_get_matches_from(with_help(arguments)) {
        Ok(matches) => match generate::directory(&matches) {
            Some(dir) => Parsed::Generate(dir),
            None => Parsed::Run(matches),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Print(error.to_string()),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Parsed::Invalid(
                "a command is missing: `emostream up` runs everything, `emostream --help` lists all commands"
                    .to_owned(),
            ),
            _ => Parsed::Invalid(one_line(&error)),
        },
    }
}

/// Replaces `-h` by `--help` for `dataflow` if no file follows. `-h FILE` stays, since it is timely's flag for the file
/// of hosts.
fn with_help(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments
        .get(1)
        .is_some_and(|command| command == "dataflow")
    {
        for at in 2..arguments.len() {
            let next = arguments.get(at + 1).map(|next| next.to_string_lossy());
            let alone = next.is_none_or(|next| next.starts_with('-'));
            if arguments[at] == "-h" && alone {
                arguments[at] = "--help".into();
            }
        }
    }
    arguments
}

/// Returns the parser of all commands that `--help` lists.
pub(crate) fn parser() -> Parser {
    with_environment(Command::command())
}

/// Adds its environment variable to each flag, for a command and its subcommands.
fn with_environment(parser: Parser) -> Parser {
    let command = parser.get_name().to_owned();
    let named = parser.mut_args(|arg| match variable(&command, &arg) {
        None => arg,
        Some(variable) => {
            let arg = match arg.get_action() {
                ArgAction::SetTrue => arg.value_parser(boolean),
                _ => arg,
            };
            // An empty variable is skipped, since clap would use it as an empty value.
            match std::env::var_os(&variable).is_some_and(|value| value.is_empty()) {
                true => arg,
                false => arg.env(variable).hide_env_values(true),
            }
        }
    });
    named.mut_subcommands(with_environment)
}

/// Returns the name of the environment variable for a flag of a command; `None` for `--help`, `--version` and arguments
/// that are not flags.
fn variable(command: &str, arg: &Arg) -> Option<String> {
    let long = arg.get_long()?;
    let own = OWN_VARIABLES.contains(&command) && !COMMON_FLAGS.contains(&long);
    let name = match (long, own) {
        ("help" | "version", _) => return None,
        (long, true) => format!("EMOSTREAM_{command}_{long}"),
        (long, false) => format!("EMOSTREAM_{long}"),
    };
    Some(name.replace('-', "_").to_uppercase())
}

/// Parses the environment variable of a flag that has no value in the arguments.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("write true, false, 1 or 0".to_owned()),
    }
}

/// Adds the names of environment variables to an error message: those that set a flag which the message names. The user
/// has to change the flag there and not in the arguments.
pub(crate) fn with_variables(message: &str, arguments: impl Iterator<Item = OsString>) -> String {
    let arguments: Vec<OsString> = arguments.skip(1).collect();
    let mut parser = parser();
    parser.build();
    let mut command = &parser;
    for argument in &arguments {
        command = command.find_subcommand(argument).unwrap_or(command);
    }
    let mut from = Vec::new();
    for arg in command.get_arguments() {
        let (Some(long), Some(variable)) = (arg.get_long(), arg.get_env()) else {
            continue;
        };
        let is_set = std::env::var_os(variable).is_some();
        if is_set && names(message, long) && !arguments.iter().any(|it| gives(it, arg)) {
            from.push(format!("{} sets --{long}", variable.to_string_lossy()));
        }
    }
    match from.is_empty() {
        true => message.to_owned(),
        false => format!("{message} ({})", from.join(", ")),
    }
}

/// Whether the message names the flag `--long`. A longer flag that begins with the same text does not count.
fn names(message: &str, long: &str) -> bool {
    let flag = format!("--{long}");
    message.match_indices(&flag).any(|(at, _)| {
        let next = message[at + flag.len()..].chars().next();
        next.is_none_or(|next| next != '-' && !next.is_alphanumeric())
    })
}

/// Whether the argument sets the flag `arg`.
fn gives(argument: &OsStr, arg: &Arg) -> bool {
    let argument = argument.to_string_lossy();
    let long = argument.strip_prefix("--").map(|long| {
        let name = long.split('=').next().unwrap_or(long);
        Some(name) == arg.get_long()
    });
    let short = arg.get_short().zip(argument.strip_prefix('-'));
    long.unwrap_or_else(|| short.is_some_and(|(short, rest)| rest.starts_with(short)))
}

/// Returns the error message of clap on one line, without the usage text.
pub(crate) fn one_line(error: &Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
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
            Parsed::Invalid(line) => line,
            Parsed::Print(text) => panic!("printed: {text}"),
            Parsed::Run(_) | Parsed::Generate(_) => panic!("accepted"),
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
                if long != "help" {
                    let variable = flag.get_env().unwrap().to_string_lossy().into_owned();
                    let expected = long.replace('-', "_").to_uppercase();
                    assert!(variable.starts_with("EMOSTREAM_"), "{variable}");
                    assert!(variable.ends_with(&expected), "{variable}");
                }
            }
        }
    }

    #[test]
    fn no_variable_has_two_meanings() {
        let mut readers = std::collections::BTreeMap::<_, Vec<_>>::new();
        for command in parser().get_subcommands() {
            for flag in command.get_arguments().filter(|a| a.get_long().is_some()) {
                if let Some(variable) = flag.get_env() {
                    let reader = (
                        command.get_name().to_owned(),
                        flag.get_long().map(str::to_owned),
                    );
                    readers.entry(variable.to_owned()).or_default().push(reader);
                }
            }
        }
        for (variable, readers) in readers {
            let tool = readers.iter().find(|(command, flag)| {
                let common = |flag: &String| COMMON_FLAGS.contains(&flag.as_str());
                OWN_VARIABLES.contains(&command.as_str()) && !flag.as_ref().is_some_and(common)
            });
            assert!(
                tool.is_none() || readers.len() == 1,
                "{variable:?}: {readers:?}"
            );
        }
    }

    #[test]
    fn the_variable_of_a_flag_without_a_value_is_a_word_or_a_digit() {
        for (text, value) in [("true", true), ("1", true), ("false", false), ("0", false)] {
            assert_eq!(boolean(text), Ok(value), "{text}");
        }
        for text in ["yes", "TRUE", "2", " 1", ""] {
            assert!(boolean(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_message_names_a_flag_only_as_a_whole() {
        assert!(names("--kafka: no", "kafka"));
        assert!(names("for '--kafka <HOST>'", "kafka"));
        assert!(!names("--kafka-property: no", "kafka"));
        assert!(names("--kafka-property x --kafka", "kafka"));
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
                    Parsed::Invalid(why) => panic!("{example}: {why}"),
                    Parsed::Print(text) => panic!("{example}: {text}"),
                    Parsed::Generate(_) => panic!("{example}: a hidden command"),
                }
            }
        }
    }

    #[test]
    fn h_is_help_in_every_command_and_still_names_timely_s_file_of_hosts() {
        let parsed = |arguments: &str| {
            let words = ["emostream"].into_iter().chain(arguments.split(' '));
            parse(words.map(OsString::from))
        };
        for command in parser().get_subcommands() {
            let arguments = format!("{} -h", command.get_name());
            assert!(
                matches!(parsed(&arguments), Parsed::Print(_)),
                "{arguments}"
            );
        }
        let alone = "dataflow -n 2 -h --kafka b:1";
        assert!(matches!(parsed(alone), Parsed::Print(_)), "{alone}");
        for named in [
            "-h hosts",
            "--hosts-file hosts",
            "--hostfile hosts",
            "-hhosts",
        ] {
            let Parsed::Run(matches) = parsed(&format!("dataflow --kafka b:1 {named}")) else {
                panic!("{named} is refused");
            };
            let (_, dataflow) = matches.subcommand().unwrap();
            let file = dataflow.get_one::<std::path::PathBuf>("hosts_file");
            assert_eq!(file.unwrap().to_str(), Some("hosts"), "{named}");
        }
    }

    #[test]
    fn an_error_is_one_line_that_names_the_flag() {
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
