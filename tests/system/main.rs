//! The system tests: processes of the program, with a real Kafka and a real browser.
//!
//! They are one binary, so that the harness is compiled and linked once. Each module has the tests of one topic;
//! `cargo test --test system outage::` runs those of `outage`.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod access;
mod accessibility;
mod auth_tls;
mod backlog;
mod bad_input;
mod browser;
mod clock;
mod cluster;
mod commits;
mod connection;
mod crash;
mod dashboard;
mod deployment;
mod element;
mod examples;
mod harness;
mod key_sets;
mod liveness;
mod load;
mod operate;
mod outage;
mod page_weight;
mod past;
mod process;
mod requests;
mod screenshots;
mod secured;
mod slow_clients;
mod standby;
mod swarms;
mod terminal;
mod time;
mod tree;
mod up;
