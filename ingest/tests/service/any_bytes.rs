//! Tests that any body gets a response, and that the log contains exactly the accepted reactions.

use std::{cell::Cell, time::Duration};

use emostream_ingest::Config;
use proptest::{prelude::*, test_runner::TestRunner};

use crate::fixture::TestService;

fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let good = r#"{"user_id":1,"emoji_type":"🔥"}"#;
    let entry = prop_oneof![
        3 => Just(good.to_owned()),
        1 => Just("{}".to_owned()),
        1 => "\\PC{0,20}",
        1 => r#"[\[\]{}",:0-9a-z_ \\-]{0,40}"#,
    ];
    let array = proptest::collection::vec(entry.clone(), 0..20)
        .prop_map(|entries| format!("[{}]", entries.join(",")).into_bytes());
    let cut = (array.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut body, at, byte)| {
            let at = at.index(body.len());
            body[at] = byte;
            body
        },
    );
    prop_oneof![
        entry.prop_map(String::into_bytes),
        array,
        cut,
        proptest::collection::vec(any::<u8>(), 0..200),
    ]
}

#[test]
fn any_body_gets_a_response_and_the_log_contains_exactly_the_accepted_reactions() {
    let mut service = TestService::start(Config {
        flush: Duration::from_millis(20),
        ..Config::default()
    });
    let accepted = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let paths = prop_oneof![Just("/v1/reactions"), Just("/emoji")];
    let property = runner.run(&(paths, bodies()), |(path, body)| {
        let response = service.post(path, &body);
        let taken = response.body["accepted"].as_u64();
        match response.status {
            200 | 202 | 207 => accepted.set(accepted.get() + taken.unwrap()),
            400 => prop_assert_eq!(taken, None),
            other => prop_assert!(false, "{}: {:?}", other, response),
        }
        Ok(())
    });
    property.unwrap();
    service.stop(Duration::from_secs(10)).unwrap();
    assert!(accepted.get() > 0);
    assert_eq!(service.reactions().len() as u64, accepted.get());
}
