//! Unauthenticated and faulty peers of the relay protocol, on both sides of a connection.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use emostream_broadcast::RelayToken;
use emostream_http::{ClientTls, Tls, TlsFiles};
use emostream_log::testing::until;
use emostream_model::{
    NodeId, RELAY_VERSION, RelayDown, RelayHello, RelayUp, RelayWelcome, WindowSettings,
};

use crate::{
    clients::connect,
    fixture::{Fixture, Node},
};

/// Returns byte strings that are not valid at the relays' port, each with a description.
fn invalid_bytes() -> Vec<(&'static str, Vec<u8>)> {
    let mut other_version = RelayUp::Heartbeat.frame();
    other_version[4] = RELAY_VERSION + 1;
    let hello = RelayUp::Hello(RelayHello {
        node: NodeId(1),
        name: "x\r\nforged".to_owned(),
        nonce: [0; 32],
        proof: [0; 32],
        has: Vec::new(),
    });
    vec![
        ("random bytes", (0..255).collect()),
        ("a giant", vec![0xff; 64]),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("another version", other_version),
        ("no hello", RelayUp::Heartbeat.frame()),
        ("a hello that proves nothing", hello.frame()),
        ("half a message", hello.frame()[..20].to_vec()),
        ("nothing", Vec::new()),
    ]
}

#[test]
fn invalid_peers_are_disconnected_and_do_not_affect_relays() {
    let mut fixture = Fixture::new();
    let publisher = fixture.publisher();
    let address = publisher.accept_relays();
    let relay = Node::relay(&[&address]);
    let peers: Vec<_> = invalid_bytes()
        .into_iter()
        .map(|(what, bytes)| {
            let mut stream = connect(address.parse().unwrap());
            stream.write_all(&bytes).unwrap();
            (what, stream)
        })
        .collect();
    for (what, mut stream) in peers {
        let mut received = Vec::new();
        // The result is ignored: the server closes the connection, possibly with a reset.
        let _ = stream.read_to_end(&mut received);
        // The peer has received nothing but a challenge, and perhaps a refusal.
        assert!(received.len() < 64, "{what}: {received:?}");
    }
    assert_eq!(publisher.metric("relays"), 1.0);
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    let history = |node: &Node| crate::clients::get(node.address, "/v1/rooms/r/history").body;
    until("final at the relay", || {
        history(&relay).contains("final") && history(&relay) == history(&publisher)
    });
}

/// Connections that send nothing do not take permits of relays, however many such connections there are.
#[test]
fn unauthenticated_connections_do_not_take_permits() {
    let fixture = Fixture::new();
    let publisher = fixture.publisher();
    let address = publisher.accept_relays_at("127.0.0.1:0", RelayToken::default(), 1);
    let peers: Vec<_> = (0..400)
        .map(|_| {
            let mut stream = connect(address.parse().unwrap());
            stream.write_all(&[0, 0, 0]).unwrap();
            stream
        })
        .collect();
    let relay = Node::relay(&[&address]);
    relay.readiness.check().unwrap();
    assert_eq!(publisher.metric("relays"), 1.0);
    // The server has closed the oldest connection first, so the read ends.
    let mut received = Vec::new();
    let _ = (&peers[0]).read_to_end(&mut received);
    assert!(received.len() < 64, "{received:?}");
}

/// Starts an upstream that sends these bytes to each client, and then nothing more. Returns its address.
fn upstream(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(&bytes);
            kept.push(stream);
        }
    });
    address
}

#[test]
fn a_relay_skips_invalid_upstreams() {
    let fixture = Fixture::new();
    let publisher = fixture.publisher();
    let welcome = RelayDown::Welcome(RelayWelcome {
        proof: [0; 32],
        path: Vec::new(),
        window_settings: WindowSettings {
            window_ms: 1,
            swarm_size: 1,
            live_ms: 1,
        },
    });
    let challenge = RelayDown::Challenge([7; 32]).frame();
    let mut bad: Vec<String> = invalid_bytes()
        .into_iter()
        .map(|(_, b)| upstream(b))
        .collect();
    bad.push(upstream(challenge.clone()));
    bad.push(upstream([challenge, welcome.frame()].concat()));
    let at_publisher = publisher.accept_relays();
    // Each relay tries a faulty upstream first. It must find the valid upstream in time.
    for bad in &bad {
        let relay = Node::relay(&[bad, &at_publisher]);
        relay.readiness.check().unwrap();
    }
    let alone = Node::try_relay(&[&bad[0]], RelayToken::default(), None);
    let why = alone.err().unwrap().to_string();
    assert!(why.contains(&bad[0]) && why.contains("--upstream"), "{why}");
}

/// The first message of an upstream contains its version. A relay of another version then closes the connection.
#[test]
fn a_relay_and_an_upstream_of_two_versions_name_both() {
    let fixture = Fixture::new();
    let publisher = fixture.publisher();
    let mut challenge = RelayDown::Challenge([7; 32]).frame();
    challenge[4] = RELAY_VERSION - 1;
    let other_version = upstream(challenge);
    let versions = ["version 1", "version 2", "the same emostream on both"];
    let alone = Node::try_relay(&[&other_version], RelayToken::default(), None);
    let why = alone.err().unwrap().to_string();
    assert!(versions.iter().all(|it| why.contains(it)), "{why}");
    // When the upstream with the relay's own version has stopped, `/readyz` contains the same error.
    let relay = Node::relay(&[&publisher.accept_relays(), &other_version]);
    drop(publisher);
    let why = || relay.readiness.check().err().unwrap_or_default();
    until("versions in readiness", || {
        versions.iter().all(|it| why().contains(it))
    });
    // A relay of version 1 finds the upstream's version in the first message that it receives.
    let publisher = fixture.publisher();
    let mut relay = connect(publisher.accept_relays().parse().unwrap());
    let mut head = [0; 5];
    relay.read_exact(&mut head).unwrap();
    assert_eq!(head[4], RELAY_VERSION);
}

#[test]
fn both_sides_must_know_the_token() {
    let fixture = Fixture::new();
    let (open, guarded) = (fixture.publisher(), fixture.publisher());
    let secret = || RelayToken::new("secret");
    let (at_open, at_guarded) = (
        open.accept_relays(),
        guarded.accept_relays_at("127.0.0.1:0", secret(), 10),
    );
    let relay = Node::try_relay(&[&at_open, &at_guarded], secret(), None).unwrap();
    assert_eq!(guarded.metric("relays"), 1.0);
    assert_eq!(open.metric("relays"), 0.0);
    relay.readiness.check().unwrap();
    let refused = Node::try_relay(&[&at_guarded], RelayToken::new("other"), None);
    let why = refused.err().unwrap().to_string();
    assert!(why.contains("--relay-token-file"), "{why}");
    assert!(!why.contains("secret"), "{why}");
}

#[test]
fn a_relay_above_the_limit_is_sent_the_reason() {
    let fixture = Fixture::new();
    let publisher = fixture.publisher();
    let address = publisher.accept_relays_at("127.0.0.1:0", RelayToken::default(), 1);
    let first = Node::relay(&[&address]);
    let why = Node::try_relay(&[&address], RelayToken::default(), None);
    let why = why.err().unwrap().to_string();
    assert!(why.contains("--max-relays"), "{why}");
    // The permit is free again once the first relay has disconnected.
    drop(first);
    until("a free permit", || publisher.metric("relays") == 0.0);
    Node::relay(&[&address]);
}

#[test]
fn only_relays_that_trust_the_certificate_connect_over_tls() {
    let mut fixture = Fixture::new();
    let publisher = fixture.publisher();
    let dir = tempfile::tempdir().unwrap();
    let certify = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let made = made.self_signed(&key).unwrap();
        let path = |what: &str| dir.path().join(format!("{name}-{what}"));
        let (certificate, key_file) = (path("certificate"), path("key"));
        std::fs::write(&certificate, made.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        TlsFiles {
            certificate,
            key: key_file,
        }
    };
    let (ours, untrusted) = (certify("127.0.0.1"), certify("other.example"));
    let address = publisher.accept_relays_over_tls(Tls::load(ours.clone()).unwrap());
    let join = |trust| Node::try_relay(&[&address], RelayToken::default(), trust);
    let trust = |files: &TlsFiles| Some(ClientTls::with_ca_file(&files.certificate).unwrap());
    let relay = join(trust(&ours)).unwrap();
    fixture.counting.close(1, &[("r", &[("🔥", 1)])]);
    let history = |node: &Node| crate::clients::get(node.address, "/v1/rooms/r/history").body;
    until("final at the relay", || {
        history(&relay).contains("final") && history(&relay) == history(&publisher)
    });
    for (trust, expected) in [
        (trust(&untrusted), "--upstream-ca"),
        (None, "--upstream-tls"),
    ] {
        let why = join(trust).err().unwrap().to_string();
        assert!(why.contains(expected), "{why}");
    }
    assert_eq!(publisher.metric("relays"), 1.0);
}
