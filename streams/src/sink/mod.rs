//! The sink, which commits results and progress in one transaction.

pub mod attempts;
pub mod commit;
pub mod known_ends;
pub mod operator;
pub mod rejections;
pub mod result;
