//! Tests of the OpenAPI document. `contract.rs` checks the responses of all tests against it.

use emostream_ingest::Config;
use serde_json::{Value, json};

use crate::{
    contract::{DOCUMENT, follow, matches, violation},
    fixture::TestService,
};

const POST: &str = "POST /v1/reactions";

#[test]
fn the_document_is_served_to_the_allowed_origins() {
    let service = TestService::start(Config {
        allow_origin: "https://a.example".parse().unwrap(),
        ..Config::default()
    });
    let got = service.request("GET /openapi.json", &[], "");
    assert_eq!((got.status, &got.body), (200, &*DOCUMENT));
    assert_eq!(got.header("content-type"), Some("application/json"));
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    let head = service.request("HEAD /openapi.json", &[], "");
    assert_eq!((head.status, &head.body), (200, &Value::Null));
    let put = service.request("PUT /openapi.json", &[], "");
    assert_eq!(
        (put.status, put.header("allow")),
        (405, Some("GET, HEAD, OPTIONS"))
    );
    let page = |origin| service.request("GET /openapi.json", &[origin], "").status;
    assert_eq!(page("origin: https://a.example"), 200);
    assert_eq!(page("origin: https://b.example"), 403);
}

#[test]
fn every_example_is_accepted() {
    let service = TestService::start(Config::default());
    let mut taken = 0;
    for path in DOCUMENT["paths"].as_object().unwrap().keys() {
        let item = follow(format!("/paths/{}", path.replace('/', "~1"))).unwrap();
        let content = format!("{item}/post/requestBody/content/application~1json");
        let Some(body) = DOCUMENT.pointer(&content) else {
            continue;
        };
        for (name, example) in body["examples"].as_object().unwrap() {
            matches(&format!("{content}/schema"), &example["value"]).unwrap();
            let response = service.post(path, example["value"].to_string());
            assert!(
                matches!(response.status, 200 | 202),
                "{path} {name}: {response:?}"
            );
            taken += 1;
        }
    }
    assert_eq!(taken, 3 + 3 * 2);
}

#[test]
fn bodies_that_violate_the_schema_are_refused() {
    let service = TestService::start(Config::default());
    for body in [
        json!({}),
        json!("fire"),
        json!({"user_id": "", "emoji_type": "fire"}),
        json!({"user_id": "u".repeat(129), "emoji_type": "fire"}),
        json!({"user_id": 1.5, "emoji_type": "fire"}),
        json!({"user_id": 1e20, "emoji_type": "fire"}),
        json!({"user_id": 1, "emoji_type": ""}),
        json!({"user_id": 1, "emoji": "fire"}),
        json!({"user_id": 1, "emoji_type": "fire", "room": "a b"}),
        json!({"user_id": 1, "emoji_type": "fire", "room": "."}),
        json!({"user_id": 1, "emoji_type": "fire", "room": ".."}),
        json!({"user_id": 1, "emoji_type": "fire", "timestamp": true}),
        json!(vec![json!({"user_id": 1, "emoji_type": "fire"}); 1001]),
    ] {
        assert!(
            matches("/components/schemas/Reactions", &body).is_err(),
            "{body}"
        );
        assert_eq!(service.post("/v1/reactions", body.to_string()).status, 400);
    }
}

#[test]
fn a_response_that_is_not_as_documented_is_a_violation() {
    let service = TestService::start(Config::default());
    let mut response = service.post("/v1/reactions", "[]");
    assert_eq!(violation(POST, &response), Ok(()));
    response.body["extra"] = json!(1);
    assert!(violation(POST, &response).is_err());
    response.body = json!({});
    assert!(violation(POST, &response).is_err());
    response.status = 418;
    assert_eq!(
        violation(POST, &response),
        Err("418 is not listed".to_owned())
    );
    response.status = 503;
    assert_eq!(violation(POST, &response), Err("no Retry-After".to_owned()));
    assert!(violation("PATCH /v1/reactions", &response).is_err());
    assert!(violation("POST /nothing", &response).is_err());
}
