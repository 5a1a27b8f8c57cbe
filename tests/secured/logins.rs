//! Each role by a principal of its own, and each way to log in by at least one role.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::fixture::{ROOM, Stage, stored};
use crate::harness::{http, node::Node, rooms::Watcher, secured::Login, until};

/// Long enough for a test.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
const DRAINED_WITHIN: Duration = Duration::from_secs(20);

fn stop(node: Node) {
    assert_eq!(node.stop(DRAINED_WITHIN).code(), Some(0));
}

#[test]
fn a_reaction_passes_every_role_with_exactly_the_permissions_of_each() {
    let stage = Stage::new("roles");
    stage.grant("topics");
    let topics = stage.client("topics", &Login::Scram512);
    stage.output(&["topics", "create", "--partitions", "2"], &topics);
    stage.output(&["topics", "check"], &topics);
    for role in ["ingest", "dataflow", "publisher"] {
        stage.grant(role);
    }
    let ingest = stage.ingest(&stage.client("ingest", &Login::Plain));
    let dataflow = stage.dataflow(&stage.client("dataflow", &Login::Scram256));
    let publisher = stage.publisher(&stage.client("publisher", &Login::Certificate));
    let address = Arc::new(Mutex::new(publisher.address.clone()));
    let subscriber = Watcher::follow(address, ROOM);
    until("a subscriber", || (subscriber.hellos() > 0).then_some(()));
    let reactions = stored(&ingest.address, 10);
    let first = until("the final", || subscriber.finals().into_iter().next());
    assert_eq!(first.total, reactions, "{first:?}");

    stage.grant("inspect");
    let inspect = stage.client("inspect", &Login::Scram512);
    for (topic, is_empty) in [
        ("reactions", false),
        ("windows", false),
        ("totals", false),
        ("trending", false),
        ("live", false),
        ("rejected", true),
        ("progress", false),
    ] {
        let records = stage.output(&["inspect", topic, "--format", "json"], &inspect);
        assert_eq!(records.is_empty(), is_empty, "{topic}: {records}");
    }

    // A reset fences a dataflow that runs.
    stop(dataflow);
    stage.grant("reset");
    let reset = stage.client("reset", &Login::Plain);
    stage.output(&["reset", "--yes"], &reset);
    let dataflow = stage.dataflow(&stage.client("dataflow", &Login::Scram256));
    let more = stored(&ingest.address, 5);
    until("the final after the reset", || {
        let finals = subscriber.finals();
        let total: u64 = finals.iter().map(|it| it.total).sum();
        (total >= reactions + more).then_some(())
    });
    for node in [ingest, dataflow, publisher] {
        stop(node);
    }
}

#[test]
fn one_process_creates_its_topics_and_counts_with_tokens() {
    let stage = Stage::new("up");
    stage.grant("up");
    let endpoint = stage.kafka.token_endpoint(TOKEN_LIFE);
    let up = stage.up(&stage.client("up", &Login::Token(&endpoint)), &[]);
    let reactions = stored(&up.address, 10);
    let path = format!("/v1/rooms/{ROOM}/history");
    let last = until("the final", || {
        http::finals(&http::get(&up.address, &path).unwrap()).pop()
    });
    assert_eq!(last.total, reactions, "{last:?}");
    assert!(endpoint.issued() > 0);
    stop(up);
}
