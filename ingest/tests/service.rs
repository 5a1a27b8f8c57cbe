//! The real service over a real log, asked by raw bytes, its records read back.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "service/access.rs"]
mod access;
#[path = "service/any_bytes.rs"]
mod any_bytes;
#[path = "service/contract.rs"]
mod contract;
#[path = "service/flushes.rs"]
mod flushes;
#[path = "service/hostile.rs"]
mod hostile;
#[path = "service/limits.rs"]
mod limits;
#[path = "service/openapi.rs"]
mod openapi;
#[path = "service/outages.rs"]
mod outages;
#[path = "service/overload.rs"]
mod overload;
#[path = "service/siege.rs"]
mod siege;
#[path = "service/stage.rs"]
mod stage;
#[path = "service/tables.rs"]
mod tables;
