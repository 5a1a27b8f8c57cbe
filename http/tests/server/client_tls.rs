//! Tests that a client connects only to servers that it trusts: the file of the client must trust the server's
//! certificate, and the certificate must be valid at this time and name the host.

use std::fs;

use emostream_http::{ClientTls, Limits, Tls, TlsFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    fixture::{Client, DEADLINE, TestServer},
    identity::Pair,
};

const HOST: &str = "react.example";

fn params() -> CertificateParams {
    CertificateParams::new([HOST.to_owned()]).unwrap()
}

/// Returns the parameters that `openssl req -x509` uses, which marks its certificates as CA certificates.
fn authority() -> CertificateParams {
    let mut params = params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn signed_by_itself(params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().unwrap();
    Pair {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// Connects a client to a server that uses the certificate of `pair`. The client trusts the certificate `named` and
/// expects the host name `host`.
async fn handshake(pair: &Pair, named: &str, host: &str) -> Result<String, String> {
    let dir = TempDir::new().unwrap();
    let files = ["certificate.pem", "key.pem", "named.pem"].map(|name| dir.path().join(name));
    for (file, text) in files.iter().zip([&*pair.certificate, &pair.key, named]) {
        fs::write(file, text).unwrap();
    }
    let [certificate, key, named] = files;
    let tls = Tls::load(TlsFiles { certificate, key }).unwrap();
    let server = TestServer::with_tls(Some(tls), Limits::default()).await;
    let trust = ClientTls::with_ca_file(&named).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let connected = timeout(DEADLINE, trust.connect(host, stream))
        .await
        .unwrap();
    let mut client = Client(connected.map_err(|error| error.to_string())?);
    client
        .send("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n")
        .await;
    Ok(client.until("alive\n").await)
}

#[tokio::test]
async fn a_byte_order_mark_before_a_certificate_or_a_key_makes_no_difference() {
    let pair = signed_by_itself(&params());
    let marked = Pair {
        certificate: format!("\u{feff}{}", pair.certificate),
        key: format!("\u{feff}{}", pair.key),
    };
    handshake(&marked, &marked.certificate, HOST).await.unwrap();
}

#[tokio::test]
async fn a_named_certificate_is_trusted_also_if_it_is_marked_as_a_ca() {
    for params in [params(), authority()] {
        let pair = signed_by_itself(&params);
        handshake(&pair, &pair.certificate, HOST).await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_signed_by_a_named_ca_is_trusted() {
    let authority =
        CertifiedIssuer::self_signed(authority(), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let pair = Pair {
        certificate: params().signed_by(&key, &authority).unwrap().pem(),
        key: key.serialize_pem(),
    };
    handshake(&pair, &authority.pem(), HOST).await.unwrap();
}

#[tokio::test]
async fn unknown_other_and_expired_certificates_are_not_trusted() {
    let mut expired = authority();
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 2);
    for params in [params(), authority()] {
        let (pair, other) = (signed_by_itself(&params), signed_by_itself(&params));
        let stranger = handshake(&pair, &other.certificate, HOST)
            .await
            .unwrap_err();
        assert!(stranger.contains("--cacert"), "{stranger}");
        let elsewhere = handshake(&pair, &pair.certificate, "other.example").await;
        assert_eq!(
            elsewhere.unwrap_err(),
            "the server's certificate is not for other.example"
        );
        let mut old = params;
        (old.not_before, old.not_after) = (expired.not_before, expired.not_after);
        let old = signed_by_itself(&old);
        let old = handshake(&old, &old.certificate, HOST).await.unwrap_err();
        assert_eq!(old, "the server's certificate has expired");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_reported() {
    let server = TestServer::start(Limits::default()).await;
    let named = TempDir::new().unwrap();
    let file = named.path().join("named.pem");
    fs::write(&file, signed_by_itself(&params()).certificate).unwrap();
    let trust = ClientTls::with_ca_file(&file).unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let connected = timeout(DEADLINE, trust.connect(HOST, stream))
        .await
        .unwrap();
    assert_eq!(
        connected.unwrap_err().to_string(),
        "the server does not use TLS; write http://"
    );
}

#[test]
fn a_file_without_a_certificate_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("named.pem");
    assert!(ClientTls::with_ca_file(&file).is_err(), "missing");
    for text in [
        "",
        "junk",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&file, text).unwrap();
        let refused = ClientTls::with_ca_file(&file).unwrap_err().to_string();
        assert!(refused.contains("no certificate in PEM"), "{refused}");
    }
}
