//! Tests of TLS: requests over TLS, slow clients, and the certificate that is used.

use std::{fs, time::Duration};

use emostream_http::{DrainOutcome, Limits, Tls, TlsError, TlsFile};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, SignatureAlgorithm};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    fixture::{DEADLINE, TestServer},
    identity::{CertificateDir, Pair, RELOAD_INTERVAL, tls_handshake},
};

const ALIVE: &str = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn requests_streams_and_upgrades_go_through_tls() {
    let pair = Pair::new();
    let server =
        TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default()).await;
    let trusted = pair.trusted(&[]);
    let mut client = server.connect_by(&trusted).await;
    client
        .send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbody")
        .await;
    client.until("\r\n\r\nbody").await;
    client.send("GET /stream HTTP/1.1\r\nhost: h\r\n\r\n").await;
    client.until("first\n\r\n").await;
    let mut upgraded = server.connect_by(&trusted).await;
    upgraded
        .send(
            "GET /upgrade HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nahead",
        )
        .await;
    upgraded.until("ahead").await;
    let long = "x".repeat(100_000);
    let (mut reads, mut writes) = tokio::io::split(upgraded.0);
    let writing = tokio::spawn({
        let long = long.clone();
        async move {
            writes.write_all(long.as_bytes()).await.unwrap();
            writes.flush().await.unwrap();
        }
    });
    let mut echoed = vec![0; long.len()];
    timeout(DEADLINE, reads.read_exact(&mut echoed))
        .await
        .unwrap()
        .unwrap();
    assert!(echoed == long.as_bytes());
    writing.await.unwrap();
    drop(reads);
    let stopping = tokio::spawn(server.stop());
    // `rest` fails if the connection ends without close_notify. A client needs the close_notify to detect that a
    // response is complete.
    assert_eq!(client.rest().await, "4\r\nbye\n\r\n0\r\n\r\n");
    drop(client);
    assert_eq!(stopping.await.unwrap(), DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn alpn_selects_a_protocol_or_the_handshake_fails() {
    let pair = Pair::new();
    let server =
        TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default()).await;
    let client = server.connect_by(&pair.trusted(&["http/1.1"])).await;
    assert_eq!(client.0.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let stream = TcpStream::connect(server.address).await.unwrap();
    let refused = tls_handshake(&pair.trusted(&["gopher"]), stream).await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("NoApplicationProtocol")
    );
}

#[tokio::test]
async fn plain_http_gets_400_and_other_bytes_are_closed() {
    let pair = Pair::new();
    let server =
        TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default()).await;
    let response = server.request(ALIVE).await;
    assert!(
        response.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{response}"
    );
    assert!(response.contains("https://"), "{response}");
    for invalid_bytes in [
        &b"\x00\x01\x02"[..],
        &[0; 100_000],
        b"\x16\x03\x01\xff\xff\x01",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"\x80\x2e\x01\x03\x01",
        b"",
    ] {
        let mut client = server.connect().await;
        // The server may close the connection during the write, so errors are ignored.
        let _ = client.0.write_all(invalid_bytes).await;
        let _ = client.0.shutdown().await;
        let ended = timeout(DEADLINE, client.0.read_to_end(&mut Vec::new())).await;
        assert!(
            ended.is_ok(),
            "not closed after {:?}",
            &invalid_bytes[..6.min(invalid_bytes.len())]
        );
    }
    server
        .connect_by(&pair.trusted(&[]))
        .await
        .send(ALIVE)
        .await;
}

#[tokio::test]
async fn slow_handshakes_delay_no_other_client_and_are_closed() {
    const DRIBBLING: usize = 200;
    const IDLE: usize = 200;
    let limits = Limits {
        connections: (DRIBBLING + IDLE + 1) as u32,
        handshake: Duration::from_millis(1500),
        drain: DEADLINE,
        ..Limits::default()
    };
    let pair = Pair::new();
    let server = TestServer::with_tls(Some(CertificateDir::of(&pair).load()), limits).await;
    let mut besiegers = Vec::new();
    for number in 0..DRIBBLING + IDLE {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        besiegers.push(tokio::spawn(async move {
            if number < DRIBBLING {
                // The beginning of a TLS record of 512 bytes, which the client sends slowly and never completes.
                let mut dribble = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"
                    .iter()
                    .chain(&[0; 400]);
                while let Some(byte) = dribble.next()
                    && stream.write_all(&[*byte]).await.is_ok()
                {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            // The server closes the connection, or resets it because of unread bytes, so an error is ignored.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }));
    }
    // One permit is left for the other clients.
    let trusted = pair.trusted(&[]);
    let mut served = 0;
    while besiegers.iter().any(|besieger| !besieger.is_finished()) {
        let Ok(stream) = TcpStream::connect(server.address).await else {
            continue;
        };
        // The handshake may fail, since the previous connection may not have released its permit yet.
        if let Ok(stream) = tls_handshake(&trusted, stream).await {
            let mut client = crate::fixture::Client(stream);
            client.send(ALIVE).await;
            client.until("alive\n").await;
            served += 1;
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(served > 0);
    for besieger in besiegers {
        timeout(DEADLINE, besieger).await.unwrap().unwrap();
    }
    assert_eq!(server.stop().await, DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_thousand_idle_connections_do_not_block_others_and_end_with_the_drain() {
    const IDLE: usize = 1000;
    let pair = Pair::new();
    let server =
        TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default()).await;
    let trusted = pair.trusted(&[]);
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        idle.push(server.connect_by(&trusted).await);
    }
    let mut client = server.connect_by(&trusted).await;
    client.send(ALIVE).await;
    client.until("alive\n").await;
    idle.push(client);
    let stopping = tokio::spawn(server.stop());
    for mut idle in idle {
        assert_eq!(idle.rest().await, "");
    }
    assert_eq!(stopping.await.unwrap(), DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_handshake_in_progress_does_not_delay_the_drain() {
    let pair = Pair::new();
    let server =
        TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default()).await;
    let mut slow = server.connect().await;
    slow.0.write_all(b"\x16\x03\x01").await.unwrap();
    assert_eq!(server.stop().await, DrainOutcome { remaining: 0 });
}

#[tokio::test]
async fn a_connection_beyond_the_limit_and_an_idle_one_are_closed() {
    let limits = Limits {
        connections: 1,
        head: Duration::from_millis(300),
        ..Limits::default()
    };
    let pair = Pair::new();
    let server = TestServer::with_tls(Some(CertificateDir::of(&pair).load()), limits).await;
    let trusted = pair.trusted(&[]);
    let mut first = server.connect_by(&trusted).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    tls_handshake(&trusted, stream).await.unwrap_err();
    // The server closes the connection without close_notify, since the client has sent no request.
    let ended = timeout(DEADLINE, first.0.read_to_end(&mut Vec::new())).await;
    ended.expect("it ends").unwrap_err();
    drop(first);
    let admitted = async {
        loop {
            let stream = TcpStream::connect(server.address).await.unwrap();
            if tls_handshake(&trusted, stream).await.is_ok() {
                break;
            }
        }
    };
    timeout(DEADLINE, admitted).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_reads_is_disconnected_in_tls_too() {
    let limits = Limits {
        write_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let pair = Pair::new();
    let server = TestServer::with_tls(Some(CertificateDir::of(&pair).load()), limits).await;
    let mut deaf = server.connect_by(&pair.trusted(&[])).await;
    let requests = "GET /metrics-of-nothing HTTP/1.1\r\nhost: h\r\n\r\n".repeat(1000);
    let flood = async { while deaf.0.write_all(requests.as_bytes()).await.is_ok() {} };
    timeout(DEADLINE, flood).await.unwrap();
}

/// Connects until the server uses `pair`'s certificate.
async fn shown(server: &TestServer, pair: &Pair) {
    let trusted = pair.trusted(&[]);
    let showing = async {
        loop {
            let stream = TcpStream::connect(server.address).await.unwrap();
            if tls_handshake(&trusted, stream).await.is_ok() {
                break;
            }
            sleep(RELOAD_INTERVAL).await;
        }
    };
    timeout(DEADLINE, showing).await.expect("it is shown");
}

#[tokio::test]
async fn a_new_pair_is_loaded_while_connections_are_open_and_an_invalid_one_never() {
    let (first, second, third) = (Pair::new(), Pair::new(), Pair::new());
    let dir = CertificateDir::of(&first);
    let tls = dir.load();
    let server = TestServer::with_tls(Some(tls.clone()), Limits::default()).await;
    let following = tokio::spawn(async move { tls.reload_on_change(RELOAD_INTERVAL).await });
    let mut standing = server.connect_by(&first.trusted(&[])).await;

    dir.put(&second);
    shown(&server, &second).await;
    standing.send(ALIVE).await;
    standing.until("alive\n").await;

    let unrelated = Pair {
        key: first.key.clone(),
        ..third.clone()
    };
    let broken = Pair {
        certificate: third.certificate.replace("BEGIN", "BEGINNING"),
        ..third.clone()
    };
    for bad in [unrelated, broken] {
        dir.put(&bad);
        // The pause is long enough for several checks of the files. If the invalid pair was loaded, the server would no
        // longer use the previous one, and the next handshake would fail.
        sleep(RELOAD_INTERVAL * 20).await;
        server.connect_by(&second.trusted(&[])).await;
    }
    fs::remove_file(dir.files().key).unwrap();
    sleep(RELOAD_INTERVAL * 20).await;
    server.connect_by(&second.trusted(&[])).await;

    dir.put(&third);
    shown(&server, &third).await;
    following.abort();
}

/// Returns the private key inside PKCS #8 (RFC 5208): the octet string that follows the version and the algorithm.
fn inner(pkcs8: &[u8]) -> &[u8] {
    fn content(der: &[u8]) -> (&[u8], &[u8]) {
        let long = usize::from(der[1].saturating_sub(0x80));
        let length = match der[1] {
            short @ 0..0x80 => usize::from(short),
            _ => der[2..2 + long]
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        };
        der[2 + long..].split_at(length)
    }
    let (_version, rest) = content(content(pkcs8).0);
    let (_algorithm, rest) = content(rest);
    content(rest).0
}

#[tokio::test]
async fn every_kind_of_key_is_read() {
    let kinds: [(&SignatureAlgorithm, Option<&str>); 3] = [
        (&PKCS_ECDSA_P256_SHA256, Some("EC PRIVATE KEY")),
        (&PKCS_RSA_SHA256, Some("RSA PRIVATE KEY")),
        (&PKCS_ED25519, None),
    ];
    for (algorithm, bare) in kinds {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pair = Pair::of(&key);
        let bare = bare.map(|tag| Pair {
            key: pem::encode(&pem::Pem::new(tag, inner(&key.serialize_der()))),
            ..pair.clone()
        });
        for pair in bare.into_iter().chain([pair]) {
            let server =
                TestServer::with_tls(Some(CertificateDir::of(&pair).load()), Limits::default())
                    .await;
            server.connect_by(&pair.trusted(&[])).await;
        }
    }
}

#[test]
fn an_invalid_pair_names_the_file_to_fix() {
    let (pair, other) = (Pair::new(), Pair::new());
    let nothing = String::new();
    let junk = |kind: &str| pem::encode(&pem::Pem::new(kind, [1, 2, 3]));
    for (certificate, key, file) in [
        (&nothing, &pair.key, TlsFile::Certificate),
        (&pair.key, &pair.key, TlsFile::Certificate),
        (&junk("CERTIFICATE"), &pair.key, TlsFile::Certificate),
        (&pair.certificate, &nothing, TlsFile::Key),
        (&pair.certificate, &pair.certificate, TlsFile::Key),
        (&pair.certificate, &junk("PRIVATE KEY"), TlsFile::Key),
        (
            &pair.certificate,
            &junk("ENCRYPTED PRIVATE KEY"),
            TlsFile::Key,
        ),
        (&pair.certificate, &other.key, TlsFile::Key),
    ] {
        let dir = CertificateDir::of(&Pair {
            certificate: certificate.clone(),
            key: key.clone(),
        });
        let error = Tls::load(dir.files()).unwrap_err();
        assert_eq!(error.file(), file, "{error}");
        let response = error.to_string();
        assert!(
            !response.contains('\n') && response.contains(".pem"),
            "{response}"
        );
    }
    let dir = CertificateDir::of(&pair);
    fs::remove_file(dir.files().key).unwrap();
    let error = Tls::load(dir.files()).unwrap_err();
    assert!(
        matches!(
            error,
            TlsError::Unreadable {
                file: TlsFile::Key,
                ..
            }
        ),
        "{error}"
    );
}
