//! Tests of tokens with a short lifetime, and of a token endpoint that is unreachable for a while.

use std::time::Duration;

use super::fixture::{Fixture, logged, post, stored};
use crate::harness::{secured::Login, until};

/// Lifetime of a token. The client requests a new token before its end.
const TOKEN_LIFE: Duration = Duration::from_secs(10);

#[test]
fn tokens_are_renewed_and_an_endpoint_that_comes_back_is_used_again() {
    let fixture = Fixture::new("tokens");
    fixture.grant("up");
    let mut endpoint = fixture.kafka.token_endpoint(TOKEN_LIFE);
    let mut up = fixture.up(&fixture.client("up", &Login::Token(&endpoint)), &[]);
    let mut reactions = stored(&up.address, 10);
    fixture.until_counted(reactions);
    let issued = endpoint.issued();
    until("a new token", || (endpoint.issued() > issued).then_some(()));
    reactions += stored(&up.address, 10);

    endpoint.server.stop();
    logged(&up, &["token", &endpoint.server.address]);
    let mut unknown = 0;
    until("the end of the last tokens", || {
        let refused = post(&up.address, 1).status != 200;
        match refused {
            true => unknown += 1,
            false => reactions += 1,
        }
        refused.then_some(())
    });
    assert_eq!(unknown, 1);
    endpoint.server.run();
    until("a request that is stored", || {
        let answer = post(&up.address, 1);
        match answer.status {
            200 => reactions += 1,
            _ => unknown += 1,
        }
        (answer.status == 200).then_some(())
    });
    fixture.until_counted_or_more(reactions, unknown);
    assert!(up.runs(), "{}", up.logged());
}
