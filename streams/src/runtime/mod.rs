//! Runs an application: its workers, and their supervision.

pub mod run;
pub mod watchdog;
pub mod worker;
