//! docs/reference/cli.md: what `--help` of every command prints, as tables. `BLESS=1` writes the file.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{fs, path::PathBuf};

use clap::{Arg, Command as Parser};

use super::arguments;

const HEAD: &str = "\
# Command line

One program, `emostream`, has a command for each role and tool. This page has what `emostream COMMAND --help` prints. The
guides and [operations](../operations.md) describe which flags to use for what; [exit codes](exit-codes.md) are a page of
their own.

A flag can also be set by the environment variable below its name; an empty variable counts as not set. The flags for log
lines, which are in the first section, are accepted by every command.

";

/// Adds a section of the command, and one of each of its subcommands. `path` is the command as typed.
fn describe(command: &mut Parser, path: &str, text: &mut String) {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim_end();
    let about = command.get_about().unwrap();
    *text += &format!(
        "## {path}\n\n{}.\n\n```text\n{usage}\n```\n\n",
        escaped(&about.to_string())
    );
    let is_root = !path.contains(' ');
    // The flags for log lines are those of every command. They are listed once.
    let rows: Vec<String> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && (is_root || !arg.is_global_set()))
        .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        .map(row)
        .collect();
    if !rows.is_empty() {
        *text += &format!("| flag | default | |\n|---|---|---|\n{}\n", rows.concat());
    }
    if let Some(examples) = command.get_after_help() {
        *text += &format!("```text\n{examples}\n```\n\n");
    }
    for subcommand in command.get_subcommands_mut() {
        if subcommand.get_name() != "help" {
            let path = format!("{path} {}", subcommand.get_name());
            describe(subcommand, &path, text);
        }
    }
}

/// Returns the row of a flag or argument.
fn row(arg: &Arg) -> String {
    let short = arg.get_short();
    let short = short.map_or(String::new(), |short| format!("-{short}, "));
    let mut flag = code(&format!("{short}{arg}"));
    if let Some(variable) = arg.get_env() {
        flag += &format!("<br>{}", code(&variable.to_string_lossy()));
    }
    let takes_values = arg.get_action().takes_values();
    let defaults = arg.get_default_values().iter().filter(|_| takes_values);
    let defaults: Vec<String> = defaults
        .map(|value| code(&value.to_string_lossy()))
        .collect();
    let help = arg.get_long_help().or(arg.get_help()).unwrap();
    let mut help = escaped(&help.to_string());
    for value in arg.get_possible_values().iter().filter(|_| takes_values) {
        let meaning = value.get_help().map(|help| format!(": {help}"));
        help += &format!(
            "<br>{}{}",
            code(value.get_name()),
            meaning.unwrap_or_default()
        );
    }
    format!("| {flag} | {} | {help} |\n", defaults.join(", "))
}

/// Returns `text` as code in a cell of a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

/// Returns `text` with the characters escaped that Markdown would interpret. Code in it stays as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if ['|', '<', '*'].contains(&character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[test]
#[cfg_attr(
    not(feature = "kafka-tls"),
    ignore = "the help of -X lists the security features of the build"
)]
fn the_reference_of_the_command_line_is_what_help_prints() {
    let mut parser = arguments::documented().complete();
    parser.build();
    let mut text = HEAD.to_owned();
    describe(&mut parser, "emostream", &mut text);
    let text = format!("{}\n", text.trim_end());
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/reference/cli.md");
    if fs::read_to_string(&file).unwrap_or_default() == text {
        return;
    }
    if std::env::var_os("BLESS").is_some_and(|value| value == "1") {
        fs::write(&file, text).unwrap();
        panic!("cli.md is rewritten: look at each line that changed, then test without BLESS");
    }
    panic!(
        "docs/reference/cli.md is not what --help prints. Write it:\n  \
         BLESS=1 cargo test --bin emostream reference\n"
    );
}
