//! The command line: groups of flags that several commands share, their values, the examples of `--help`.

pub(crate) mod examples;
pub(crate) mod flags;
mod kafka_config;
pub(crate) mod parsing;
pub(crate) mod text_file;
pub(crate) mod values;
