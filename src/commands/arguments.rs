//! The arguments of the program. Each flag can also be set by the environment variable `EMOSTREAM_<FLAG>`.

use clap::CommandFactory;
use emostream_app::process::Arguments;

use super::{Command, generate};

/// The tools whose environment variables contain the name of the tool, for example `EMOSTREAM_LOAD_RATE`.
const TOOLS: [&str; 3] = ["load", "inspect", "reset"];

/// The flags that have the same meaning for every command. Their variables do not contain the name of a tool.
const COMMON_FLAGS: [&str; 7] = [
    "kafka",
    "kafka-config",
    "kafka-property",
    "data",
    "topic-prefix",
    "verbose",
    "log-format",
];

/// Returns the arguments that the program accepts.
pub(crate) fn arguments() -> Arguments {
    let documented = documented();
    Arguments {
        parser: documented.parser.subcommand(generate::parser()),
        ..documented
    }
}

/// Returns the arguments that help, man pages and completions describe.
pub(crate) fn documented() -> Arguments {
    Arguments {
        parser: Command::command(),
        prefix: "EMOSTREAM".to_owned(),
        tools: &TOOLS,
        common_flags: &COMMON_FLAGS,
        missing_command: "a command is missing: `emostream up` runs everything, `emostream --help` lists all commands"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::ffi::OsString;

    use clap::Command as Parser;
    use emostream_app::process::Parsed;

    use super::*;

    fn parser() -> Parser {
        documented().complete()
    }

    fn parse(line: impl Iterator<Item = OsString>) -> Parsed {
        arguments().parse(line)
    }

    fn refused(arguments: &[&str]) -> String {
        let arguments = ["emostream"].iter().chain(arguments).map(OsString::from);
        match parse(arguments) {
            Parsed::Invalid(line) => line,
            Parsed::Print(text) => panic!("printed: {text}"),
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
                TOOLS.contains(&command.as_str()) && !flag.as_ref().is_some_and(common)
            });
            assert!(
                tool.is_none() || readers.len() == 1,
                "{variable:?}: {readers:?}"
            );
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
                    Parsed::Invalid(why) => panic!("{example}: {why}"),
                    Parsed::Print(text) => panic!("{example}: {text}"),
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
