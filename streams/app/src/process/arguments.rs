//! Parses the arguments of a program. Each flag can also be set by an environment variable, whose name consists of the
//! name of the program and the name of the flag. An error message is one line.
//!
//! Invariants: an empty variable counts as not set. No variable has two meanings: a tool may have a flag with the name
//! of a server's flag but another meaning, and then the variable of the tool's flag contains the name of the tool.

use std::ffi::{OsStr, OsString};

use clap::{
    Arg, ArgAction, ArgMatches, Command as Parser, Error, FromArgMatches, error::ErrorKind,
};

use super::exit::{Exit, Failure};

/// The arguments that a program accepts.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The flags and commands, without their environment variables.
    pub parser: Parser,
    /// The first part of the names of the environment variables, without the underscore after it.
    pub prefix: String,
    /// The tools whose environment variables contain the name of the tool: `PREFIX_TOOL_FLAG`.
    pub tools: &'static [&'static str],
    /// The flags that mean the same for every command, so that their variables do not contain the name of a tool.
    pub common_flags: &'static [&'static str],
    /// The error message for arguments without a command.
    pub missing_command: String,
}

/// The result of parsing the arguments.
#[derive(Debug)]
pub enum Parsed {
    /// The command to run.
    Run(ArgMatches),
    /// The text of the help or the version, which the program prints.
    Print(String),
    /// The error, which names the flag and the reason.
    Invalid(String),
}

impl Arguments {
    /// Returns the parser, in which each flag also has its environment variable.
    pub fn complete(&self) -> Parser {
        self.with_environment(self.parser.clone())
    }

    /// Parses the arguments, and the environment variables of flags that are not in the arguments.
    pub fn parse(&self, arguments: impl Iterator<Item = OsString>) -> Parsed {
        let parser = self.complete();
        let arguments = with_help(parser.clone(), arguments);
        match parser.try_get_matches_from(arguments) {
            Ok(matches) => Parsed::Run(matches),
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Parsed::Print(error.to_string())
                }
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    Parsed::Invalid(self.missing_command.clone())
                }
                _ => Parsed::Invalid(one_line(&error)),
            },
        }
    }

    /// For each flag of a command and its subcommands, adds the environment variable of the flag.
    fn with_environment(&self, parser: Parser) -> Parser {
        let command = parser.get_name().to_owned();
        let named = parser.mut_args(|arg| match self.variable(&command, &arg) {
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
        named.mut_subcommands(|command| self.with_environment(command))
    }

    /// Returns the name of the environment variable for a flag of a command; `None` for `--help`, `--version` and
    /// arguments that are not flags.
    fn variable(&self, command: &str, arg: &Arg) -> Option<String> {
        let long = arg.get_long()?;
        let prefix = &self.prefix;
        let own = self.tools.contains(&command) && !self.common_flags.contains(&long);
        let name = match (long, own) {
            ("help" | "version", _) => return None,
            (long, true) => format!("{prefix}_{command}_{long}"),
            (long, false) => format!("{prefix}_{long}"),
        };
        Some(name.replace('-', "_").to_uppercase())
    }

    /// Adds names of environment variables to an error message. If a variable has set a flag that the message names,
    /// the user has to change the variable and not the arguments.
    pub fn with_variables(
        &self,
        message: &str,
        arguments: impl Iterator<Item = OsString>,
    ) -> String {
        let arguments: Vec<OsString> = arguments.skip(1).collect();
        let mut parser = self.complete();
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
}

/// Replaces `-h` by `--help` if no file name follows. Some commands have timely's flag `-h FILE` for the file of hosts,
/// so clap's own `-h` is disabled for them.
fn with_help(mut parser: Parser, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    // `build` applies the global settings of a command to its subcommands.
    parser.build();
    let mut arguments: Vec<OsString> = arguments.collect();
    let mut command = &parser;
    for at in 1..arguments.len() {
        command = command.find_subcommand(&arguments[at]).unwrap_or(command);
        let next = arguments.get(at + 1).map(|next| next.to_string_lossy());
        let alone = next.is_none_or(|next| next.starts_with('-'));
        if arguments[at] == "-h" && alone && command.is_disable_help_flag_set() {
            arguments[at] = "--help".into();
        }
    }
    arguments
}

/// Parses the environment variable of a flag that has no value in the arguments.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("write true, false, 1 or 0".to_owned()),
    }
}

/// Returns the flags of a command, or the error of clap on one line.
pub fn parsed<T: FromArgMatches>(matches: &ArgMatches) -> Result<T, Failure> {
    T::from_arg_matches(matches).map_err(|error| Failure::new(Exit::Usage, one_line(&error)))
}

/// Whether the message names the flag `--long`. A longer flag that begins with the same text is another flag.
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
fn one_line(error: &Error) -> String {
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
    use super::*;

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
}
