//! Permissions that are missing, taken away and given back.

use std::time::Duration;

use super::fixture::{Stage, assert_contains, ended, logged, post, sentence, stored};
use crate::harness::{
    http,
    node::Node,
    secured::{Client, Login},
    until,
};

/// How long a service repeats a request that is denied before it ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// Only a test that fails waits this long.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(90);

/// Waits until `/readyz` answers 200 (`is_ready`) or not, and returns the body of its answer.
fn until_ready(node: &Node, is_ready: bool) -> String {
    let admin = node.admin();
    until("the right readiness", || {
        let answer = http::get(&admin, "/readyz");
        let answer = answer.unwrap_or_else(|error| panic!("{error}:\n{}", node.logged()));
        ((answer.status == 200) == is_ready).then_some(answer.body)
    })
}

/// Waits until `/readyz` is 503 and its reason contains each of `words`: other reasons may come before.
fn until_not_ready(node: &Node, words: &[&str]) {
    until("the reason in /readyz", || {
        let reason = until_ready(node, false).to_lowercase();
        let contains = |word: &&str| reason.contains(&word.to_lowercase());
        words.iter().all(contains).then_some(())
    });
}

/// A process of `role` that is not ready yet.
fn starting(stage: &Stage, role: &str, client: &Client, more: &[&str]) -> Node {
    let arguments = [&["--admin", "off"], more].concat();
    let arguments = stage.arguments(&[role], client, &arguments);
    Node::start_silent(&arguments, &stage.log(role))
}

/// Waits for a process to end with 78 and a sentence that has these words, and returns how long that took.
fn ends_with_78(node: &mut Node, words: &[&str]) -> Duration {
    let (code, after) = ended(node, GIVEN_UP_WITHIN);
    let log = node.logged();
    assert_eq!(code, 78, "{log}");
    assert_contains(sentence(&log), &[words, &["topics check"]].concat());
    after
}

/// A dataflow that has counted and then lost the permission to write finals, its ingest, its properties, and how many
/// reactions are stored.
fn denied_to_write(stage: &Stage) -> (Node, Node, Client, u64) {
    for role in ["ingest", "dataflow"] {
        stage.grant(role);
    }
    let ingest = stage.ingest(&stage.client("ingest", &Login::Scram512));
    let client = stage.client("dataflow", &Login::Scram256);
    let dataflow = stage.dataflow(&client);
    let mut reactions = stored(&ingest.address, 10);
    stage.until_counted(reactions);
    stage.deny("dataflow", "Write", "windows");
    reactions += stored(&ingest.address, 10);
    (dataflow, ingest, client, reactions)
}

#[test]
fn a_dataflow_that_may_write_again_counts_everything() {
    let stage = Stage::with_topics("denied");
    let (mut dataflow, _ingest, _, reactions) = denied_to_write(&stage);
    let windows = stage.topic("windows");
    logged(&dataflow, &["Write", &windows]);
    until_not_ready(&dataflow, &["Write", &windows]);
    stage.allow_again("dataflow", "Write", "windows");
    stage.until_counted(reactions);
    until_ready(&dataflow, true);
    assert!(dataflow.runs(), "{}", dataflow.logged());
}

#[test]
fn a_dataflow_that_stays_without_a_permission_ends_with_78() {
    let stage = Stage::with_topics("lost");
    let (mut dataflow, _ingest, client, reactions) = denied_to_write(&stage);
    let after = ends_with_78(&mut dataflow, &["Write", &stage.topic("windows")]);
    // The window had to close first.
    assert!(after >= PATIENCE, "{after:?}");

    stage.allow_again("dataflow", "Write", "windows");
    let _dataflow = stage.dataflow(&client);
    stage.until_counted(reactions);
}

#[test]
fn a_dataflow_that_may_not_read_any_more_recovers() {
    let stage = Stage::with_topics("reads");
    for role in ["ingest", "dataflow"] {
        stage.grant(role);
    }
    let ingest = stage.ingest(&stage.client("ingest", &Login::Scram512));
    let mut dataflow = stage.dataflow(&stage.client("dataflow", &Login::Scram256));
    let mut reactions = stored(&ingest.address, 10);
    stage.until_counted(reactions);
    stage.deny("dataflow", "Read", "reactions");
    reactions += stored(&ingest.address, 10);
    logged(&dataflow, &["Read", &stage.topic("reactions")]);
    stage.allow_again("dataflow", "Read", "reactions");
    stage.until_counted(reactions);
    assert!(dataflow.runs(), "{}", dataflow.logged());
}

#[test]
fn an_ingest_names_the_permission_that_it_lost_and_recovers() {
    let stage = Stage::with_topics("ingest");
    stage.grant("ingest");
    let mut ingest = stage.ingest(&stage.client("ingest", &Login::Plain));
    stored(&ingest.address, 1);
    stage.deny("ingest", "Write", "reactions");
    until("a request that is not stored", || {
        (post(&ingest.address, 1).status == 503).then_some(())
    });
    logged(&ingest, &["Write", &stage.topic("reactions")]);
    stage.allow_again("ingest", "Write", "reactions");
    until("a request that is stored", || {
        (post(&ingest.address, 1).status == 200).then_some(())
    });
    until_ready(&ingest, true);
    assert!(ingest.runs(), "{}", ingest.logged());
}

#[test]
fn a_start_without_permissions_names_one_and_ends_with_78() {
    let stage = Stage::with_topics("none");
    let client = stage.client("publisher", &Login::Certificate);
    let mut publisher = starting(&stage, "publisher", &client, &["--listen", "127.0.0.1:0"]);
    // A command does not wait for a permission as a service does.
    let inspect = stage.client("inspect", &Login::Scram256);
    let output = stage.run(&["inspect", "windows"], &inspect);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert_contains(sentence(&errors), &["Describe", &stage.topic("windows")]);

    ends_with_78(&mut publisher, &["Describe", &stage.prefix]);
}

#[test]
fn a_start_that_may_describe_and_not_read_names_it_and_ends_with_78() {
    let stage = Stage::with_topics("unread");
    for role in ["ingest", "dataflow", "publisher"] {
        stage.grant(role);
    }
    let ingest = stage.ingest(&stage.client("ingest", &Login::Scram512));
    let _dataflow = stage.dataflow(&stage.client("dataflow", &Login::Scram256));
    let reactions = stored(&ingest.address, 10);
    stage.until_counted(reactions);
    stage.deny("publisher", "Read", "totals");
    let client = stage.client("publisher", &Login::Plain);
    let mut publisher = starting(&stage, "publisher", &client, &["--listen", "127.0.0.1:0"]);
    ends_with_78(&mut publisher, &["Read", &stage.topic("totals")]);
}

#[test]
fn a_publisher_that_may_read_again_after_its_patience_is_ready_again() {
    let stage = Stage::with_topics("reread");
    stage.grant("publisher");
    let publisher = stage.publisher(&stage.client("publisher", &Login::Scram512));
    until_ready(&publisher, true);
    stage.deny("publisher", "Read", "live");
    // Only a denial that is final ends the reading.
    logged(
        &publisher,
        &["results cannot be read", "Read", &stage.topic("live")],
    );
    until_not_ready(&publisher, &["Read", &stage.topic("live")]);
    stage.allow_again("publisher", "Read", "live");
    until_ready(&publisher, true);
}

#[test]
fn an_ingest_that_starts_without_write_takes_reactions_once_it_may() {
    let stage = Stage::with_topics("unwritten");
    stage.grant("ingest");
    stage.deny("ingest", "Write", "reactions");
    let ingest = stage.ingest(&stage.client("ingest", &Login::Scram512));
    post(&ingest.address, 1);
    let reactions = stage.topic("reactions");
    until_not_ready(&ingest, &["Write", &reactions]);
    stage.allow_again("ingest", "Write", "reactions");
    until("a request that is stored", || {
        (post(&ingest.address, 1).status == 200).then_some(())
    });
    until_ready(&ingest, true);
}

#[test]
fn a_start_that_may_not_read_the_settings_of_a_topic_names_describe_configs() {
    let stage = Stage::with_topics("undescribed");
    stage.grant("dataflow");
    stage.deny("dataflow", "DescribeConfigs", "reactions");
    let client = stage.client("dataflow", &Login::Scram256);
    let mut dataflow = starting(&stage, "dataflow", &client, &[]);
    ends_with_78(
        &mut dataflow,
        &["DescribeConfigs", &stage.topic("reactions")],
    );
}
