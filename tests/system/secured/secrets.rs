//! Tests that the secrets of a properties file appear in no output, metric, log line or process list.

use std::{fs, time::Duration};

use super::fixture::{Fixture, stored};
use crate::harness::{
    http, node,
    secured::{Client, Login},
};

/// The prefix of all secrets of the tests.
const SECRET: &str = "hunter2";
const TOKEN_LIFE: Duration = Duration::from_secs(600);

fn assert_silent(what: &str, text: &str) {
    assert!(!text.contains(SECRET), "{what}: {text}");
    // Every JSON Web Token begins with `eyJ`.
    assert!(!text.contains("eyJ"), "{what}: {text}");
}

#[test]
fn secrets_appear_nowhere() {
    let fixture = Fixture::new("secrets");
    fixture.grant("up");
    let endpoint = fixture.kafka.token_endpoint(TOKEN_LIFE);
    for (login, property) in [
        (Login::Scram256, "sasl.password"),
        (Login::Token(&endpoint), "sasl.oauthbearer.client.secret"),
    ] {
        let client = fixture.client("up", &login);
        for format in ["text", "json"] {
            let up = fixture.up(&client, &["-v", "--log-format", format]);
            stored(&up.address, 1);
            let (admin, pid) = (up.admin(), up.pid());
            let metrics = http::get(&admin, "/metrics").unwrap();
            assert_silent("/metrics", &metrics.body);
            let process = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            assert_silent("the process list", &String::from_utf8_lossy(&process));
            assert_silent("the log", &up.logged());
            drop(up);
            // The log is removed, because the admin address of the next process is read from it.
            fs::remove_file(fixture.log("up")).unwrap();
        }
        fails_silently(&fixture, &client, property);
    }
}

/// Asserts that the secret is not printed if the properties file is invalid.
fn fails_silently(fixture: &Fixture, client: &Client, secret: &str) {
    let properties = [
        (secret, "hunter2-of-nobody"),
        // Values that cannot be parsed, and a property that does not exist.
        ("ssl.key.pem", "hunter2"),
        ("socket.timeout.ms", "soon"),
        ("sasl.pasword", "hunter2"),
    ];
    let config = client.flags()[3];
    let help = node::emostream(&["up", "--help"])
        .env("EMOSTREAM_KAFKA_CONFIG", config)
        .output()
        .unwrap();
    assert_silent("--help", &String::from_utf8(help.stdout).unwrap());
    for (property, value) in properties {
        let client = client.clone().with(property, value);
        let output = fixture.run(&["up", "-vv", "--listen", "127.0.0.1:0"], &client);
        assert!(!output.status.success(), "{property}");
        for text in [output.stdout, output.stderr] {
            assert_silent(property, &String::from_utf8(text).unwrap());
        }
    }
}
