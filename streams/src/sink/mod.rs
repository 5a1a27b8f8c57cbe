//! How results are committed with the progress.

pub mod attempts;
pub mod commit;
pub mod known_ends;
pub mod operator;
pub mod rejections;
pub mod result;
