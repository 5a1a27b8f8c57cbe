//! Subscribers over TLS, whose connections shards serve, and over HTTP/2, whose streams async tasks serve.

use std::{fs, net::TcpStream, sync::Arc};

use emostream_http::{Tls, TlsFiles};
use emostream_log::testing::until;
use hyper::{Request, body::Body as _, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    clients::{Sse, Subscriber, Ws, connect},
    fixture::{Fixture, Node, config},
    slow::{narrow_stream, skips_live_tallies_and_gets_every_final},
};

type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// A publisher with TLS, and the trust settings of its clients.
struct Secret {
    node: Node,
    trust: Arc<ClientConfig>,
    _files: TempDir,
}

impl Secret {
    fn publisher(fixture: &Fixture) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["publisher.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let files = TempDir::new().unwrap();
        let at = |name: &str| files.path().join(name);
        fs::write(at("certificate.pem"), &certificate).unwrap();
        fs::write(at("key.pem"), key.serialize_pem()).unwrap();
        let tls = Tls::load(TlsFiles {
            certificate: at("certificate.pem"),
            key: at("key.pem"),
        });
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            node: Node::speaking(Some(tls.unwrap()), fixture.log.clone(), config()),
            trust: Arc::new(trust),
            _files: files,
        }
    }

    fn over(&self, stream: TcpStream) -> Encrypted {
        let name = "publisher.example".try_into().unwrap();
        let connection = ClientConnection::new(self.trust.clone(), name).unwrap();
        StreamOwned::new(connection, stream)
    }

    fn join(&self) -> Ws<Encrypted> {
        let stream = self.over(connect(self.node.address));
        Ws::over(stream, self.node.address, "r", "")
    }
}

#[test]
fn subscribers_over_tls_are_sent_all_frames_and_bye() {
    let mut fixture = Fixture::new();
    let secret = Secret::publisher(&fixture);
    let plain = fixture.publisher();
    let mut in_tls = [secret.join(), secret.join()];
    let mut in_the_clear = Ws::join(plain.address, "r", "");
    for nth in 1..=50 {
        fixture.counting.live(nth, "r", &[("🔥", nth)]);
        fixture.counting.close(nth, &[("r", &[("🔥", nth)])]);
    }
    let expected = in_the_clear.finals(50);
    for ws in &mut in_tls {
        assert_eq!(ws.finals(50), expected);
    }
    // The server sends pongs over TLS, too.
    let [mut ws, left] = in_tls;
    ws.0.send(tungstenite::Message::Ping("there?".into()))
        .unwrap();
    let mut pongs = std::iter::from_fn(|| Some(ws.message()));
    assert!(pongs.any(|message| message == tungstenite::Message::Pong("there?".into())));
    drop(left);
    until("one has gone", || {
        secret.node.metric(r#"subscribers{transport="websocket"}"#) == 1.0
    });
    let Secret { node, .. } = secret;
    let stopped = std::thread::spawn(move || node.stop());
    let mut rest = std::iter::from_fn(|| ws.0.read().ok());
    let close = rest.find_map(|message| match message {
        tungstenite::Message::Close(close) => close,
        _ => None,
    });
    assert_eq!(close.map(|close| close.code.into()), Some(3001));
    assert_eq!(stopped.join().unwrap().remaining, 0);
}

#[test]
fn a_slow_subscriber_in_tls_skips_live_tallies_and_gets_every_final() {
    let mut fixture = Fixture::new();
    let secret = Secret::publisher(&fixture);
    let stream = secret.over(narrow_stream(&secret.node));
    let ws = Ws::over(stream, secret.node.address, "r", "");
    skips_live_tallies_and_gets_every_final(&mut fixture, &secret.node, ws);
}

#[test]
fn a_stream_of_events_over_http2_is_the_same_stream() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut by_http1 = Sse::join(node.address, "r", "", "");
    let mut body = runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(node.address).await.unwrap();
        let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        let url = format!("http://{}/v1/rooms/r/events", node.address);
        let request = Request::get(url).body(String::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        // The client would close the connection when the last `sender` is dropped, so this one is never dropped.
        std::mem::forget(sender);
        response.into_body()
    });
    for nth in 1..=3 {
        fixture.counting.close(nth, &[("r", &[("🔥", nth)])]);
    }
    let expected = by_http1.finals(3);
    let mut text = String::new();
    let mut read_until = |what: &str| {
        while !text.contains(what) {
            let piece = runtime.block_on(std::future::poll_fn(|cx| {
                std::pin::Pin::new(&mut body).poll_frame(cx)
            }));
            let bytes = piece.unwrap().unwrap().into_data().unwrap();
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        text.clone()
    };
    let text = read_until(&expected[2].text);
    assert!(text.starts_with("retry: "), "{text}");
    assert!(
        expected
            .iter()
            .all(|kept| text.contains(&format!("data: {}\n\n", kept.text))),
        "{text}"
    );
    node.bye();
    read_until("event: bye");
}
