//! Compares the responses and messages of the tests with the OpenAPI document.

use emostream_http::testing::Contract;
use emostream_model::OPENAPI;
use serde_json::{Value, json};

use crate::clients::Answer;

thread_local! {
    static CONTRACT: Contract = Contract::new(OPENAPI);
}

/// Panics if the response to a request of the API is not as documented. The pages and their files are not a part of the
/// API.
pub(crate) fn check(line: &str, answer: &Answer) {
    if !line.contains(" /v1/") {
        return;
    }
    let kind = answer.header("content-type").unwrap_or_default();
    let body = match answer.body.as_str() {
        "" if kind != "text/event-stream" => Value::Null,
        body if kind.ends_with("json") => serde_json::from_str(body).unwrap(),
        body => Value::from(body),
    };
    let header = |name: &str| answer.header(name);
    let violation =
        CONTRACT.with(|contract| contract.violation(line, answer.status, header, &body));
    if let Err(why) = violation {
        panic!("{line} is not answered as openapi.json states: {why}: {answer:?}");
    }
}

/// Panics if a message to a subscriber is not as documented.
pub(crate) fn check_message(message: &Value) {
    let checked =
        CONTRACT.with(|contract| contract.matches("/components/schemas/Message", message));
    if let Err(why) = checked {
        panic!("this message is not in openapi.json: {why}: {message}");
    }
}

#[test]
#[should_panic(expected = "is not in openapi.json")]
fn a_field_that_is_not_documented_is_a_violation() {
    check_message(&json!({"type": "heartbeat", "now": 0}));
    check_message(&json!({"type": "heartbeat", "now": 0, "extra": 1}));
}
