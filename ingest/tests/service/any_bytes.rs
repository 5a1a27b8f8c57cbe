//! Whatever is sent is answered, and what was accepted is what the log holds.

use std::{cell::Cell, time::Duration};

use emostream_ingest::Config;
use proptest::{prelude::*, test_runner::TestRunner};

use crate::stage::Stage;

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
fn any_body_is_answered_and_the_log_holds_exactly_what_was_accepted() {
    let mut stage = Stage::start(Config {
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
        let said = stage.post(path, &body);
        let taken = said.body["accepted"].as_u64();
        match said.status {
            200 | 202 | 207 => accepted.set(accepted.get() + taken.unwrap()),
            400 => prop_assert_eq!(taken, None),
            other => prop_assert!(false, "{}: {:?}", other, said),
        }
        Ok(())
    });
    property.unwrap();
    stage.stop(Duration::from_secs(10)).unwrap();
    assert!(accepted.get() > 0);
    assert_eq!(stage.reactions().len() as u64, accepted.get());
}
