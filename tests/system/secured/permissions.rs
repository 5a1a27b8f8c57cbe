//! Tests of permissions that are missing, removed and restored.

use std::time::Duration;

use super::fixture::{Fixture, assert_contains, ended, logged, post, sentence, stored};
use crate::harness::{
    http,
    node::Node,
    secured::{Client, Login},
    until,
};

/// Time for which a service retries a denied request before it ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum time until a process ends; only a test that fails waits this long.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(90);

/// Waits until `/readyz` returns 200, or another status if `is_ready` is false. Returns the body of the response.
fn until_ready(node: &Node, is_ready: bool) -> String {
    let admin = node.admin();
    until("the right readiness", || {
        let answer = http::get(&admin, "/readyz");
        let answer = answer.unwrap_or_else(|error| panic!("{error}:\n{}", node.logged()));
        ((answer.status == 200) == is_ready).then_some(answer.body)
    })
}

/// Waits until `/readyz` returns 503 with a reason that contains each of `words`. It may report other reasons before.
fn until_not_ready(node: &Node, words: &[&str]) {
    until("the reason in /readyz", || {
        let reason = until_ready(node, false).to_lowercase();
        let contains = |word: &&str| reason.contains(&word.to_lowercase());
        words.iter().all(contains).then_some(())
    });
}

/// Starts a process of `role`, without waiting until it is ready.
fn starting(fixture: &Fixture, role: &str, client: &Client, more: &[&str]) -> Node {
    let arguments = [&["--admin", "off"], more].concat();
    let arguments = fixture.arguments(&[role], client, &arguments);
    Node::start_silent(&arguments, &fixture.log(role))
}

/// Waits until a process ends with 78 and a sentence that contains `words`. Returns how long that took.
fn ends_with_78(node: &mut Node, words: &[&str]) -> Duration {
    let (code, after) = ended(node, GIVEN_UP_WITHIN);
    let log = node.logged();
    assert_eq!(code, 78, "{log}");
    assert_contains(sentence(&log), &[words, &["topics check"]].concat());
    after
}

/// Returns a dataflow that has lost the permission to write finals, its ingest, its client, and the number of stored
/// reactions.
fn denied_to_write(fixture: &Fixture) -> (Node, Node, Client, u64) {
    for role in ["ingest", "dataflow"] {
        fixture.grant(role);
    }
    let ingest = fixture.ingest(&fixture.client("ingest", &Login::Scram512));
    let client = fixture.client("dataflow", &Login::Scram256);
    let dataflow = fixture.dataflow(&client);
    let mut reactions = stored(&ingest.address, 10);
    fixture.until_counted(reactions);
    fixture.deny("dataflow", "Write", "windows");
    reactions += stored(&ingest.address, 10);
    (dataflow, ingest, client, reactions)
}

#[test]
fn a_dataflow_that_may_write_again_counts_everything() {
    let fixture = Fixture::with_topics("denied");
    let (mut dataflow, _ingest, _, reactions) = denied_to_write(&fixture);
    let windows = fixture.topic("windows");
    logged(&dataflow, &["Write", &windows]);
    until_not_ready(&dataflow, &["Write", &windows]);
    fixture.allow_again("dataflow", "Write", "windows");
    fixture.until_counted(reactions);
    until_ready(&dataflow, true);
    assert!(dataflow.runs(), "{}", dataflow.logged());
}

#[test]
fn a_dataflow_that_stays_without_a_permission_ends_with_78() {
    let fixture = Fixture::with_topics("lost");
    let (mut dataflow, _ingest, client, reactions) = denied_to_write(&fixture);
    let after = ends_with_78(&mut dataflow, &["Write", &fixture.topic("windows")]);
    // The dataflow writes nothing until a window closes, and then it retries for `PATIENCE`.
    assert!(after >= PATIENCE, "{after:?}");

    fixture.allow_again("dataflow", "Write", "windows");
    let _dataflow = fixture.dataflow(&client);
    fixture.until_counted(reactions);
}

#[test]
fn a_dataflow_that_may_not_read_any_more_recovers() {
    let fixture = Fixture::with_topics("reads");
    for role in ["ingest", "dataflow"] {
        fixture.grant(role);
    }
    let ingest = fixture.ingest(&fixture.client("ingest", &Login::Scram512));
    let mut dataflow = fixture.dataflow(&fixture.client("dataflow", &Login::Scram256));
    let mut reactions = stored(&ingest.address, 10);
    fixture.until_counted(reactions);
    fixture.deny("dataflow", "Read", "reactions");
    reactions += stored(&ingest.address, 10);
    logged(&dataflow, &["Read", &fixture.topic("reactions")]);
    fixture.allow_again("dataflow", "Read", "reactions");
    fixture.until_counted(reactions);
    assert!(dataflow.runs(), "{}", dataflow.logged());
}

#[test]
fn an_ingest_names_the_permission_that_it_lost_and_recovers() {
    let fixture = Fixture::with_topics("ingest");
    fixture.grant("ingest");
    let mut ingest = fixture.ingest(&fixture.client("ingest", &Login::Plain));
    stored(&ingest.address, 1);
    fixture.deny("ingest", "Write", "reactions");
    until("a request that is not stored", || {
        (post(&ingest.address, 1).status == 503).then_some(())
    });
    logged(&ingest, &["Write", &fixture.topic("reactions")]);
    fixture.allow_again("ingest", "Write", "reactions");
    until("a request that is stored", || {
        (post(&ingest.address, 1).status == 200).then_some(())
    });
    until_ready(&ingest, true);
    assert!(ingest.runs(), "{}", ingest.logged());
}

#[test]
fn a_start_without_permissions_names_one_and_ends_with_78() {
    let fixture = Fixture::with_topics("none");
    let client = fixture.client("publisher", &Login::Certificate);
    let mut publisher = starting(&fixture, "publisher", &client, &["--listen", "127.0.0.1:0"]);
    // Unlike a service, a command does not wait for a permission, so it ends at once.
    let inspect = fixture.client("inspect", &Login::Scram256);
    let output = fixture.run(&["inspect", "windows"], &inspect);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert_contains(sentence(&errors), &["Describe", &fixture.topic("windows")]);

    ends_with_78(&mut publisher, &["Describe", &fixture.prefix]);
}

#[test]
fn a_start_that_may_describe_and_not_read_names_it_and_ends_with_78() {
    let fixture = Fixture::with_topics("unread");
    for role in ["ingest", "dataflow", "publisher"] {
        fixture.grant(role);
    }
    let ingest = fixture.ingest(&fixture.client("ingest", &Login::Scram512));
    let _dataflow = fixture.dataflow(&fixture.client("dataflow", &Login::Scram256));
    let reactions = stored(&ingest.address, 10);
    fixture.until_counted(reactions);
    fixture.deny("publisher", "Read", "totals");
    let client = fixture.client("publisher", &Login::Plain);
    let mut publisher = starting(&fixture, "publisher", &client, &["--listen", "127.0.0.1:0"]);
    ends_with_78(&mut publisher, &["Read", &fixture.topic("totals")]);
}

#[test]
fn a_publisher_that_may_read_again_after_its_patience_is_ready_again() {
    let fixture = Fixture::with_topics("reread");
    fixture.grant("publisher");
    let publisher = fixture.publisher(&fixture.client("publisher", &Login::Scram512));
    until_ready(&publisher, true);
    fixture.deny("publisher", "Read", "live");
    // The reader retries for some time, so it does not end if the permission is restored soon.
    logged(
        &publisher,
        &["results cannot be read", "Read", &fixture.topic("live")],
    );
    until_not_ready(&publisher, &["Read", &fixture.topic("live")]);
    fixture.allow_again("publisher", "Read", "live");
    until_ready(&publisher, true);
}

#[test]
fn an_ingest_that_starts_without_write_takes_reactions_once_it_may() {
    let fixture = Fixture::with_topics("unwritten");
    fixture.grant("ingest");
    fixture.deny("ingest", "Write", "reactions");
    let ingest = fixture.ingest(&fixture.client("ingest", &Login::Scram512));
    post(&ingest.address, 1);
    let reactions = fixture.topic("reactions");
    until_not_ready(&ingest, &["Write", &reactions]);
    fixture.allow_again("ingest", "Write", "reactions");
    until("a request that is stored", || {
        (post(&ingest.address, 1).status == 200).then_some(())
    });
    until_ready(&ingest, true);
}

#[test]
fn a_start_that_may_not_read_the_settings_of_a_topic_names_describe_configs() {
    let fixture = Fixture::with_topics("undescribed");
    fixture.grant("dataflow");
    fixture.deny("dataflow", "DescribeConfigs", "reactions");
    let client = fixture.client("dataflow", &Login::Scram256);
    let mut dataflow = starting(&fixture, "dataflow", &client, &[]);
    ends_with_78(
        &mut dataflow,
        &["DescribeConfigs", &fixture.topic("reactions")],
    );
}
