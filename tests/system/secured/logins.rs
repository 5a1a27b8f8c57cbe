//! Tests that each role works with its own principal. Each authentication mechanism is used by at least one role.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::fixture::{Fixture, ROOM, stored};
use crate::harness::{http, node::Node, rooms::Watcher, secured::Login, until};

/// Lifetime of tokens. It is longer than a test, so tokens are not renewed.
const TOKEN_LIFE: Duration = Duration::from_secs(600);
const DRAINED_WITHIN: Duration = Duration::from_secs(20);

fn stop(node: Node) {
    assert_eq!(node.stop(DRAINED_WITHIN).code(), Some(0));
}

#[test]
fn a_reaction_passes_every_role_with_exactly_the_permissions_of_each() {
    let fixture = Fixture::new("roles");
    fixture.grant("topics");
    let topics = fixture.client("topics", &Login::Scram512);
    fixture.output(&["topics", "create", "--partitions", "2"], &topics);
    fixture.output(&["topics", "check"], &topics);
    for role in ["ingest", "dataflow", "publisher"] {
        fixture.grant(role);
    }
    let ingest = fixture.ingest(&fixture.client("ingest", &Login::Plain));
    let dataflow = fixture.dataflow(&fixture.client("dataflow", &Login::Scram256));
    let publisher = fixture.publisher(&fixture.client("publisher", &Login::Certificate));
    let address = Arc::new(Mutex::new(publisher.address.clone()));
    let subscriber = Watcher::follow(address, ROOM);
    until("a subscriber", || (subscriber.hellos() > 0).then_some(()));
    let reactions = stored(&ingest.address, 10);
    let first = until("the final", || subscriber.finals().into_iter().next());
    assert_eq!(first.total, reactions, "{first:?}");

    fixture.grant("inspect");
    let inspect = fixture.client("inspect", &Login::Scram512);
    for (topic, is_empty) in [
        ("reactions", false),
        ("windows", false),
        ("totals", false),
        ("trending", false),
        ("live", false),
        ("rejected", true),
        ("progress", false),
    ] {
        let records = fixture.output(&["inspect", topic, "--format", "json"], &inspect);
        assert_eq!(records.is_empty(), is_empty, "{topic}: {records}");
    }

    // A reset would fence a running dataflow, so the dataflow is stopped first.
    stop(dataflow);
    fixture.grant("reset");
    let reset = fixture.client("reset", &Login::Plain);
    fixture.output(&["reset", "--yes"], &reset);
    let dataflow = fixture.dataflow(&fixture.client("dataflow", &Login::Scram256));
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
    let fixture = Fixture::new("up");
    fixture.grant("up");
    let endpoint = fixture.kafka.token_endpoint(TOKEN_LIFE);
    let up = fixture.up(&fixture.client("up", &Login::Token(&endpoint)), &[]);
    let reactions = stored(&up.address, 10);
    let path = format!("/v1/rooms/{ROOM}/history");
    let last = until("the final", || {
        http::finals(&http::get(&up.address, &path).unwrap()).pop()
    });
    assert_eq!(last.total, reactions, "{last:?}");
    assert!(endpoint.issued() > 0);
    stop(up);
}
