//! A publisher during outages of the log.

use emostream_log::testing::{Reads, until};

use crate::{
    clients::{Subscriber, Ws},
    fixture::Fixture,
};

#[test]
fn a_publisher_is_ready_while_it_reads_and_not_while_it_cannot() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    node.readiness.check().unwrap();
    let mut ws = Ws::join(node.address, "r", "");
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    ws.finals(1);

    fixture.log.reads(Reads::Fail);
    until("not ready", || node.readiness.check().is_err());
    assert!(
        node.readiness
            .check()
            .unwrap_err()
            .contains("no broker answers")
    );
    fixture.counting.close(2, &[("r", &[("🔥", 2)])]);
    fixture.log.reads(Reads::Work);
    let missed = ws.finals(1).remove(0);
    assert_eq!(missed.json["total"], 2);
    assert_eq!(missed.json["totals"][0]["count"], 3);
    until("ready", || node.readiness.check().is_ok());
}
