//! Runs an application: its workers, and their supervision.

pub mod app;
pub mod run;
pub mod watchdog;
pub mod worker;
