//! Runs an application.

pub mod app;
pub mod run;
pub mod watchdog;
pub mod worker;
