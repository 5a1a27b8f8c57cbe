//! Runs an application: starts and supervises its workers.

pub mod run;
pub mod watchdog;
pub mod worker;
