//! Flags that several commands share, the parsers of their values, and the examples of `--help`.

pub(crate) mod examples;
pub(crate) mod flags;
mod kafka_config;
pub(crate) mod parse;
pub(crate) mod text_file;
