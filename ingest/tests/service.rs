//! Tests of the service with a log. They send raw HTTP requests, and check the responses and the records in the log.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[path = "service/access.rs"]
mod access;
#[path = "service/any_bytes.rs"]
mod any_bytes;
#[path = "service/contract.rs"]
mod contract;
#[path = "service/fixture.rs"]
mod fixture;
#[path = "service/flushes.rs"]
mod flushes;
#[path = "service/limits.rs"]
mod limits;
#[path = "service/malformed_input.rs"]
mod malformed_input;
#[path = "service/openapi.rs"]
mod openapi;
#[path = "service/outages.rs"]
mod outages;
#[path = "service/overload.rs"]
mod overload;
#[path = "service/responses.rs"]
mod responses;
#[path = "service/slow_clients.rs"]
mod slow_clients;
