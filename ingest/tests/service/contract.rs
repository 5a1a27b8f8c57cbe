//! Compares every response of the tests with the OpenAPI document.

use std::sync::LazyLock;

use emostream_http::testing::Contract;
use emostream_model::OPENAPI;
use serde_json::Value;

use crate::fixture::Response;

/// The OpenAPI document.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(OPENAPI).unwrap());

thread_local! {
    static CONTRACT: Contract = Contract::new(OPENAPI);
}

/// Returns an error if `response` is not as documented for a request with the request line `line`.
pub(crate) fn violation(line: &str, response: &Response) -> Result<(), String> {
    let header = |name: &str| response.header(name);
    CONTRACT.with(|contract| contract.violation(line, response.status, header, &response.body))
}

/// Checks a value against the schema at a JSON pointer of the document.
pub(crate) fn matches(pointer: &str, value: &Value) -> Result<(), String> {
    CONTRACT.with(|contract| contract.matches(pointer, value))
}

/// Returns the JSON pointer after all references are resolved; `None` if the document has no value there.
pub(crate) fn follow(pointer: String) -> Option<String> {
    CONTRACT.with(|contract| contract.follow(pointer))
}
