//! Tests of starts that cannot use Kafka because of TLS or authentication: the exit code is 69, and the error is one
//! sentence.

use std::{thread, time::Duration};

use super::fixture::{Fixture, assert_contains, sentence};
use crate::harness::{
    authority::Authority,
    secured::{Client, Login},
};

const TOKEN_LIFE: Duration = Duration::from_secs(600);

#[test]
fn a_start_that_cannot_log_in_names_what_is_wrong() {
    let fixture = Fixture::with_topics("refused");
    let dir = fixture.dir.path();
    let others = Authority::new("another authority");
    let ca = dir.join("other-ca.pem");
    std::fs::write(&ca, others.pem()).unwrap();
    let endpoint = fixture.kafka.token_endpoint(TOKEN_LIFE);
    let mut away = fixture.kafka.token_endpoint(TOKEN_LIFE);
    away.server.stop();
    let away_at = away.server.address.clone();
    let client = |login: &Login<'_>| fixture.client("ingest", login);
    let wrong = "sasl.password";
    let with = |name: &str, certificate| {
        client(&Login::Certificate).with_certificate(&dir.join(name), &certificate)
    };
    let cases: Vec<(&str, Client, Vec<&str>)> = vec![
        (
            "a broker's certificate of another authority",
            client(&Login::Plain).with("ssl.ca.location", ca.to_str().unwrap()),
            vec!["certificate", "ssl.ca.location"],
        ),
        (
            "a broker's certificate for another host",
            client(&Login::Plain).at(&fixture.kafka.misnamed),
            vec!["certificate", "host", &fixture.kafka.misnamed],
        ),
        (
            "a wrong password by PLAIN",
            client(&Login::Plain).with(wrong, "hunter2-of-nobody"),
            vec!["authentication", "password"],
        ),
        (
            "a wrong password by SCRAM",
            client(&Login::Scram256).with(wrong, "hunter2-of-nobody"),
            vec!["authentication", "password"],
        ),
        (
            "a user that does not exist",
            client(&Login::Scram512).with("sasl.username", "nobody"),
            vec!["authentication", "password"],
        ),
        (
            "an expired client certificate",
            with("expired", fixture.kafka.authority.expired("ingest")),
            vec!["certificate", "ssl.certificate.location"],
        ),
        (
            "a client certificate of another authority",
            with("stranger", others.certificate("ingest", &[])),
            vec!["certificate", "ssl.certificate.location"],
        ),
        (
            "a token endpoint that is away",
            client(&Login::Token(&away)),
            vec!["token", &away_at],
        ),
        (
            "a wrong secret at the token endpoint",
            client(&Login::Token(&endpoint))
                .with("sasl.oauthbearer.client.secret", "hunter2-of-nobody"),
            vec!["token", "invalid_client"],
        ),
    ];
    // The commands run concurrently, since each of them waits for Kafka for some seconds.
    thread::scope(|scope| {
        let runs = cases
            .into_iter()
            .enumerate()
            .map(|(case, (what, client, words))| {
                let client = client.in_file(dir.join(format!("case-{case}.properties")));
                let fixture = &fixture;
                let run = move || {
                    let output = fixture.run(
                        &["ingest", "--listen", "127.0.0.1:0", "--admin", "off"],
                        &client,
                    );
                    (
                        output.status.code(),
                        String::from_utf8(output.stderr).unwrap(),
                    )
                };
                (what, words, scope.spawn(run))
            });
        let runs: Vec<_> = runs.collect();
        for (what, words, run) in runs {
            let (code, errors) = run.join().unwrap();
            assert_eq!(code, Some(69), "{what}: {errors}");
            let sentence = sentence(&errors);
            println!("{what}: {sentence}");
            assert_contains(sentence, &words);
            assert!(!errors.contains("hunter2"), "{what}: {errors}");
        }
    });
}

#[test]
fn a_file_that_cannot_be_read_and_a_bad_property_end_with_64() {
    let fixture = Fixture::new("usage");
    let client = fixture.client("ingest", &Login::Plain);
    let missing = fixture.dir.path().join("missing.properties");
    let missing = missing.to_str().unwrap();
    let [kafka, brokers, config, _] = client.flags();
    let listen = ["--listen", "127.0.0.1:0", "--admin", "off"];
    let arguments = [&["ingest", kafka, brokers, config, missing][..], &listen].concat();
    let output = crate::harness::node::run(&arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{errors}");
    assert_contains(sentence(&errors), &["--kafka-config", missing]);

    for (property, value) in [("acks", "1"), ("no.such.property", "1")] {
        let client = client.clone().with(property, value);
        let output = fixture.run(&[&["ingest"], &listen[..]].concat(), &client);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{errors}");
        assert_contains(sentence(&errors), &["--kafka-config", property]);
    }
}

#[test]
fn a_start_without_tls_at_a_tls_port_names_security_protocol() {
    let fixture = Fixture::with_topics("plaintext");
    let client = fixture.client("ingest", &Login::Plain);
    let client = client.with("security.protocol", "PLAINTEXT");
    let output = fixture.run(
        &["ingest", "--listen", "127.0.0.1:0", "--admin", "off"],
        &client,
    );
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert_contains(sentence(&errors), &["TLS", "security.protocol"]);
}
