//! Flags that several commands share, the parsers of their values, and the examples of `--help`.

pub(crate) mod examples;
pub(crate) mod flags;
pub(crate) mod parse;
