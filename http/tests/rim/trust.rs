//! Whom a client believes: what is in the file that it was given, in date, and for this host.

use std::fs;

use emostream_http::{Limits, Tls, TlsFiles, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    identity::Pair,
    stage::{Client, DEADLINE, Running},
};

const HOST: &str = "react.example";

fn params() -> CertificateParams {
    CertificateParams::new([HOST.to_owned()]).unwrap()
}

/// As `openssl req -x509` makes it: it calls itself an authority.
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

/// How a client that believes `named` gets on with a server that shows `pair`, as `host`.
async fn meet(pair: &Pair, named: &str, host: &str) -> Result<String, String> {
    let home = TempDir::new().unwrap();
    let files = ["certificate.pem", "key.pem", "named.pem"].map(|name| home.path().join(name));
    for (file, text) in files.iter().zip([&*pair.certificate, &pair.key, named]) {
        fs::write(file, text).unwrap();
    }
    let [certificate, key, named] = files;
    let tls = Tls::load(TlsFiles { certificate, key }).unwrap();
    let running = Running::speaking(Some(tls), Limits::default()).await;
    let trust = Trust::in_file(&named).unwrap();
    let stream = TcpStream::connect(running.address).await.unwrap();
    let spoken = timeout(DEADLINE, trust.speak(host, stream)).await.unwrap();
    let mut client = Client(spoken.map_err(|error| error.to_string())?);
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
    meet(&marked, &marked.certificate, HOST).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_named_is_believed_also_if_it_calls_itself_an_authority() {
    for params in [params(), authority()] {
        let pair = signed_by_itself(&params);
        meet(&pair, &pair.certificate, HOST).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_named_authority_has_signed_is_believed() {
    let authority =
        CertifiedIssuer::self_signed(authority(), KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let pair = Pair {
        certificate: params().signed_by(&key, &authority).unwrap().pem(),
        key: key.serialize_pem(),
    };
    meet(&pair, &authority.pem(), HOST).await.unwrap();
}

#[tokio::test]
async fn strangers_other_hosts_and_expired_ones_are_not_believed() {
    let mut expired = authority();
    expired.not_before = date_time_ymd(2020, 1, 1);
    expired.not_after = date_time_ymd(2020, 1, 2);
    for params in [params(), authority()] {
        let (pair, other) = (signed_by_itself(&params), signed_by_itself(&params));
        let stranger = meet(&pair, &other.certificate, HOST).await.unwrap_err();
        assert!(stranger.contains("--cacert"), "{stranger}");
        let elsewhere = meet(&pair, &pair.certificate, "other.example").await;
        assert_eq!(
            elsewhere.unwrap_err(),
            "its certificate is not for other.example"
        );
        let mut old = params;
        (old.not_before, old.not_after) = (expired.not_before, expired.not_after);
        let old = signed_by_itself(&old);
        let old = meet(&old, &old.certificate, HOST).await.unwrap_err();
        assert_eq!(old, "its certificate has expired");
    }
}

#[tokio::test]
async fn a_server_in_the_clear_is_told_from_one_in_tls() {
    let running = Running::start(Limits::default()).await;
    let named = TempDir::new().unwrap();
    let file = named.path().join("named.pem");
    fs::write(&file, signed_by_itself(&params()).certificate).unwrap();
    let trust = Trust::in_file(&file).unwrap();
    let stream = TcpStream::connect(running.address).await.unwrap();
    let spoken = timeout(DEADLINE, trust.speak(HOST, stream)).await.unwrap();
    assert_eq!(
        spoken.unwrap_err().to_string(),
        "it speaks no TLS; write http://"
    );
}

#[test]
fn a_file_without_a_certificate_is_refused() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("named.pem");
    assert!(Trust::in_file(&file).is_err(), "missing");
    for text in [
        "",
        "junk",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        fs::write(&file, text).unwrap();
        let refused = Trust::in_file(&file).unwrap_err().to_string();
        assert!(refused.contains("no certificate in PEM"), "{refused}");
    }
}
