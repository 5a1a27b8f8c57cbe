#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use prometheus::TextEncoder;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use super::*;
use crate::middleware::auth::{
    key_set::MAX_SET_BYTES,
    testing::{Issuer, ed25519, p256, set},
};

/// Timeout of the tests. Only a test that fails waits this long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server that answers each request with the same text.
struct Endpoint {
    address: SocketAddr,
    answer: Arc<Mutex<String>>,
    requests: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

fn ok(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
}

impl Endpoint {
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, requests) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (answers, counter) = (answer.clone(), requests.clone());
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                assert!(head.starts_with("get /keys?realm=1 http/1.1\r\n"), "{head}");
                assert!(head.contains(&format!("\r\nhost: {address}\r\n")), "{head}");
                counter.fetch_add(1, Ordering::SeqCst);
                let answer = answers.lock().unwrap().clone();
                // The client closes the connection when an answer is too long, so an error of the write is ignored.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            address,
            answer,
            requests,
            serving,
        }
    }

    fn answers(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Starts a task that fetches the key set of this endpoint. Returns the keys, their metrics and their readiness.
    fn follow(&self) -> (RemoteKeys, Registry, Readiness) {
        let url = format!("http://{}/keys?realm=1", self.address)
            .parse()
            .unwrap();
        let keys = RemoteKeys::new(url, None, RequiredClaims::default());
        let (registry, readiness) = (Registry::new(), Readiness::new());
        keys.follow(&registry, &readiness).unwrap();
        (keys, registry, readiness)
    }
}

async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let waiting = async {
        loop {
            match condition() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let found = timeout(DEADLINE, waiting).await;
    found.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
}

async fn until_ready(readiness: &Readiness) {
    until("ready", || readiness.check().ok()).await;
}

fn keys_of(issuers: &[(&str, &Issuer)]) -> String {
    let jwks: Vec<_> = issuers
        .iter()
        .map(|(kid, issuer)| issuer.jwk(Some(kid)))
        .collect();
    ok(&set(&jwks))
}

fn token(kid: &str, issuer: &Issuer) -> String {
    issuer.token_with_kid(Some(kid), &json!({"sub": "u-17", "exp": 4e9}))
}

async fn verdict(keys: &RemoteKeys, token: &str) -> Result<String, Refused> {
    let verified = keys.verify(token, SystemTime::now()).await;
    verified.map(|claims| claims.sub)
}

fn metric(registry: &Registry, name: &str) -> f64 {
    let text = TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines
        .next()
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .parse()
        .unwrap()
}

const ACCEPTED: &str = "u-17";
const UNKNOWN: Refused = Refused::Token(InvalidToken::UnknownKey);

#[tokio::test]
async fn tokens_are_verified_once_the_set_is_there() {
    let issuer = p256();
    let endpoint =
        Endpoint::start("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    let (keys, registry, readiness) = endpoint.follow();
    let token = token("k1", &issuer);
    assert_eq!(verdict(&keys, &token).await, Err(Refused::NoKeys));
    let why = until("a reason", || {
        let why = readiness.check().err()?;
        why.contains("500").then_some(why)
    });
    let why = why.await;
    assert!(
        why.starts_with("tokens: the key set http://127.0.0.1") && !why.contains("realm"),
        "{why}"
    );
    endpoint.answers(keys_of(&[("k1", &issuer)]));
    until_ready(&readiness).await;
    assert_eq!(verdict(&keys, &token).await.unwrap(), ACCEPTED);
    assert_eq!(metric(&registry, "emostream_jwks_keys"), 1.0);
    assert_eq!(
        metric(
            &registry,
            r#"emostream_jwks_refreshes_total{outcome="fetched"}"#
        ),
        1.0
    );
    assert!(
        metric(
            &registry,
            r#"emostream_jwks_refreshes_total{outcome="failed"}"#
        ) >= 1.0
    );
    assert!(metric(&registry, "emostream_jwks_fetched_timestamp_seconds") > 1.7e9);
}

#[tokio::test]
async fn a_new_key_is_fetched_once_for_all_that_wait_for_it() {
    let (old, new) = (p256(), ed25519());
    let endpoint = Endpoint::start(keys_of(&[("old", &old)])).await;
    let (keys, registry, readiness) = endpoint.follow();
    until_ready(&readiness).await;
    endpoint.answers(keys_of(&[("new", &new), ("old", &old)]));
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let (keys, token) = (keys.clone(), token("new", &new));
            tokio::spawn(async move { verdict(&keys, &token).await })
        })
        .collect();
    for verified in waiting {
        assert_eq!(verified.await.unwrap().unwrap(), ACCEPTED);
    }
    assert_eq!(endpoint.requests(), 2);
    assert_eq!(verdict(&keys, &token("old", &old)).await.unwrap(), ACCEPTED);
    // A flood of invented kids causes no further request to the endpoint.
    for invented in 0..1000 {
        let token = token(&format!("k{invented}"), &new);
        assert_eq!(verdict(&keys, &token).await, Err(UNKNOWN));
    }
    assert_eq!(endpoint.requests(), 2);
    assert!(metric(&registry, "emostream_jwks_unknown_kids_total") >= 1001.0);
}

#[tokio::test]
async fn a_key_that_is_withdrawn_is_not_accepted_after_the_next_fetch() {
    let (old, new) = (p256(), p256());
    let endpoint = Endpoint::start(keys_of(&[("old", &old)])).await;
    let (keys, _, readiness) = endpoint.follow();
    until_ready(&readiness).await;
    endpoint.answers(keys_of(&[("new", &new)]));
    assert_eq!(verdict(&keys, &token("new", &new)).await.unwrap(), ACCEPTED);
    assert_eq!(verdict(&keys, &token("old", &old)).await, Err(UNKNOWN));
}

#[tokio::test]
async fn keys_stay_valid_while_the_endpoint_is_away() {
    let (old, new) = (p256(), p256());
    let endpoint = Endpoint::start(keys_of(&[("old", &old)])).await;
    let (keys, registry, readiness) = endpoint.follow();
    until_ready(&readiness).await;
    endpoint.serving.abort();
    let address = endpoint.address;
    until("a refused connection", || {
        std::net::TcpStream::connect(address).err()
    })
    .await;
    // The first request causes a fetch, which fails.
    assert_eq!(
        verdict(&keys, &token("new", &new)).await,
        Err(Refused::NoKeys)
    );
    assert_eq!(
        verdict(&keys, &token("new", &new)).await,
        Err(Refused::NoKeys)
    );
    assert_eq!(verdict(&keys, &token("old", &old)).await.unwrap(), ACCEPTED);
    assert_eq!(readiness.check(), Ok(()));
    let activity = readiness.activities();
    assert!(
        activity.contains("not reachable") && activity.contains("stay in use"),
        "{activity}"
    );
    assert!(
        metric(
            &registry,
            r#"emostream_jwks_refreshes_total{outcome="failed"}"#
        ) >= 1.0
    );
}

#[tokio::test]
async fn an_answer_without_a_usable_set_is_named_and_replaces_nothing() {
    let issuer = p256();
    let mut encrypts = issuer.jwk(Some("k2"));
    encrypts["use"] = json!("enc");
    let endless = " ".repeat(MAX_SET_BYTES + 1);
    let cases = [
        (
            "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "redirects to /elsewhere",
        ),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "404",
        ),
        (ok("<html>"), "not a JSON Web Key Set"),
        (ok(&set(&[encrypts.clone()])), "without a usable key"),
        (ok(&endless), "more than 262144 bytes"),
        (
            format!("HTTP/1.1 200 OK\r\n\r\n{endless}"),
            "more than 262144 bytes",
        ),
        (
            format!("HTTP/1.1 200 OK\r\nx: {endless}\r\n\r\n"),
            "no valid response",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n".to_owned(), "no valid response"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_owned(),
            "no valid response",
        ),
    ];
    let mut running = JoinSet::new();
    for (answer, words) in cases {
        running.spawn(replaces_nothing(answer, words, issuer.clone()));
    }
    running.join_all().await;
}

async fn replaces_nothing(answer: String, words: &'static str, issuer: Issuer) {
    let endpoint = Endpoint::start(answer.clone()).await;
    let (keys, _, readiness) = endpoint.follow();
    until(words, || {
        readiness.check().err().filter(|why| why.contains(words))
    })
    .await;
    assert_eq!(
        verdict(&keys, &token("k1", &issuer)).await,
        Err(Refused::NoKeys)
    );

    // The endpoint sends the same response again after a valid set was fetched.
    endpoint.answers(keys_of(&[("k1", &issuer)]));
    until_ready(&readiness).await;
    endpoint.answers(answer);
    assert_eq!(
        verdict(&keys, &token("k2", &issuer)).await,
        Err(Refused::NoKeys)
    );
    assert!(
        readiness.activities().contains(words),
        "{}",
        readiness.activities()
    );
    assert_eq!(
        verdict(&keys, &token("k1", &issuer)).await.unwrap(),
        ACCEPTED
    );
}
