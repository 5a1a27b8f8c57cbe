//! Tests of a publisher with a log and clients over sockets. Some of the clients and logs are faulty.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[path = "service/access.rs"]
mod access;
#[path = "service/answers.rs"]
mod answers;
#[path = "service/clients.rs"]
mod clients;
#[path = "service/contract.rs"]
mod contract;
#[path = "service/counting.rs"]
mod counting;
#[path = "service/encrypted.rs"]
mod encrypted;
#[path = "service/fixture.rs"]
mod fixture;
#[path = "service/heartbeats.rs"]
mod heartbeats;
#[path = "service/invalid_clients.rs"]
mod invalid_clients;
#[path = "service/invalid_peers.rs"]
mod invalid_peers;
#[path = "service/outages.rs"]
mod outages;
#[path = "service/receiving.rs"]
mod receiving;
#[path = "service/restarts.rs"]
mod restarts;
#[path = "service/resuming.rs"]
mod resuming;
#[path = "service/retention.rs"]
mod retention;
#[path = "service/shards.rs"]
mod shards;
#[path = "service/shutdown.rs"]
mod shutdown;
#[path = "service/slow.rs"]
mod slow;
#[path = "service/tree.rs"]
mod tree;
#[path = "service/trending.rs"]
mod trending;
