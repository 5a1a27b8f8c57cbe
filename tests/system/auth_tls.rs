//! Tests of `load` and `subscribe` with a server that uses TLS and requires tokens.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::harness::{
    DEADLINE,
    node::{self, Node},
};

const SECRET: &str = "a secret that may sign a token of every user";

/// A server that uses TLS and requires tokens, with the files of its clients.
struct SecuredServer {
    _node: Node,
    url: String,
    home: tempfile::TempDir,
}

impl SecuredServer {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        // The certificate is a CA, like the one that docs/guide/tokens-and-limits.md creates.
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        put(
            home.path(),
            "cert.pem",
            &params.self_signed(&key).unwrap().pem(),
        );
        put(home.path(), "key.pem", &key.serialize_pem());
        put(home.path(), "secret", SECRET);
        let users = ["u-1", "u \"2\"", "👏"].map(|user| token(user, 600));
        put(home.path(), "tokens", &users.join("\n"));
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let node = Node::up(
            home.path(),
            &[
                "--tls-cert",
                &path("cert.pem"),
                "--tls-key",
                &path("key.pem"),
                "--jwt-key",
                &path("secret"),
            ],
        );
        let (_, port) = node.address.rsplit_once(':').unwrap();
        let url = format!("https://localhost:{port}");
        Self {
            _node: node,
            url,
            home,
        }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }

    /// Returns the flags of a client.
    fn flags(&self) -> Vec<String> {
        let (cacert, tokens) = (self.path("cert.pem"), self.path("tokens"));
        [
            "--url",
            &self.url,
            "--cacert",
            &cacert,
            "--token-file",
            &tokens,
        ]
        .map(str::to_owned)
        .into()
    }
}

fn put(home: &Path, name: &str, text: &str) -> PathBuf {
    let file = home.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn token(user: &str, left: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let exp = now.unwrap().as_secs() as i64 + left;
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &json!({"sub": user, "exp": exp}), &key).unwrap()
}

#[test]
fn a_load_of_users_with_tokens_is_counted_exactly_in_tls() {
    let server = SecuredServer::start();
    for batch in ["1", "10"] {
        let mut load = vec![
            "load", "--json", "--verify", "--room", batch, "--batch", batch,
        ];
        load.extend(["--rate", "100/s", "--duration", "2s", "--probe", "5/s"]);
        let flags = server.flags();
        load.extend(flags.iter().map(String::as_str));
        let report: Value = serde_json::from_str(&node::output(&load)).unwrap();
        assert_eq!(report["users"], 3, "{report}");
        assert_eq!(report["reactions"]["accepted"], 200, "{report}");
        assert_eq!(report["verify"]["exact"], true, "{report}");
        assert!(report["to_screen"]["shown"].as_u64() > Some(0), "{report}");
    }
}

#[test]
fn a_subscriber_with_a_token_follows_in_tls_over_both_transports() {
    let server = SecuredServer::start();
    for transport in [&[][..], &["--sse"]] {
        let flags = server.flags();
        let flags = flags.iter().map(String::as_str);
        let arguments: Vec<&str> = ["subscribe", "--json"]
            .into_iter()
            .chain(flags)
            .chain(transport.iter().copied())
            .collect();
        let log = server.home.path().join("errors");
        let mut child = node::spawn(&arguments, &log, Stdio::piped());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(lines.map_while(Result::ok).next()));
        let first = receiver.recv_timeout(DEADLINE);
        child.kill().unwrap();
        child.wait().unwrap();
        let first = first.unwrap().unwrap_or_else(|| node::last_lines(&log));
        assert!(first.contains("\"hello\""), "{transport:?}: {first}");
    }
}

#[test]
fn a_client_without_access_gets_an_error_that_names_the_flag() {
    let server = SecuredServer::start();
    let expired = put(server.home.path(), "expired", &token("u-1", -600));
    let (cacert, expired) = (server.path("cert.pem"), expired.to_str().unwrap());
    let (url, tokens) = (&*server.url, server.path("tokens"));
    let address = url.replace("localhost", "127.0.0.1");
    let in_the_clear = url.replace("https", "http");
    let run = ["--rate", "10/s", "--duration", "1s"];
    for (command, flags, part) in [
        (
            "subscribe",
            vec!["--url", url, "--token-file", &tokens],
            "--cacert",
        ),
        (
            "subscribe",
            vec!["--url", url, "--cacert", &cacert],
            "--token-file",
        ),
        (
            "subscribe",
            vec!["--url", url, "--cacert", &cacert, "--sse"],
            "--token-file",
        ),
        (
            "subscribe",
            vec!["--url", url, "--cacert", &cacert, "--token-file", expired],
            "--token-file",
        ),
        (
            "subscribe",
            vec!["--url", &address, "--cacert", &cacert],
            "the server's certificate is not for 127.0.0.1",
        ),
        ("load", vec!["--url", url], "--cacert"),
        (
            "load",
            vec!["--url", url, "--cacert", &cacert],
            "--token-file",
        ),
        ("load", vec!["--url", &in_the_clear], "https://"),
    ] {
        let more = if command == "load" { &run[..] } else { &[] };
        let output = node::run(&[&[command][..], &flags, more].concat());
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{command} {flags:?}");
        assert!(printed.contains(part), "{command} {flags:?}: {printed}");
        assert!(!printed.contains(&token("u-1", -600)), "{printed}");
    }
}
