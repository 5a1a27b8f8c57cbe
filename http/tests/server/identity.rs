//! Certificates of the tests, in files, and clients that trust them.

use std::{fs, path::Path, sync::Arc, time::Duration};

use emostream_http::{Tls, TlsFiles};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::fixture::{Client, DEADLINE, TestServer};

/// Interval at which the certificate files are checked.
pub(crate) const RELOAD_INTERVAL: Duration = Duration::from_millis(10);

/// The host name of all certificates.
const NAME: &str = "react.example";

/// A certificate and its key in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::of(&KeyPair::generate().unwrap())
    }

    pub(crate) fn of(key: &KeyPair) -> Self {
        let params = CertificateParams::new([NAME.to_owned()]).unwrap();
        Self {
            certificate: params.self_signed(key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Returns a connector that trusts only this certificate.
    pub(crate) fn trusted(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    }
}

/// The directory of a server's certificate files.
pub(crate) struct CertificateDir(TempDir);

impl CertificateDir {
    pub(crate) fn of(pair: &Pair) -> Self {
        let dir = Self(TempDir::new().unwrap());
        dir.put(pair);
        dir
    }

    pub(crate) fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.0.path().join("certificate.pem"),
            key: self.0.path().join("key.pem"),
        }
    }

    pub(crate) fn put(&self, pair: &Pair) {
        let files = self.files();
        put(&files.certificate, &pair.certificate);
        put(&files.key, &pair.key);
    }

    pub(crate) fn load(&self) -> Tls {
        Tls::load(self.files()).unwrap()
    }
}

fn put(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Performs the TLS handshake with the server behind `stream`.
pub(crate) async fn tls_handshake(
    connector: &TlsConnector,
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(NAME).unwrap();
    timeout(DEADLINE, connector.connect(name, stream))
        .await
        .expect("a handshake ends")
}

impl TestServer {
    /// Connects a client over TLS.
    pub(crate) async fn connect_by(
        &self,
        connector: &TlsConnector,
    ) -> Client<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        Client(tls_handshake(connector, stream).await.unwrap())
    }
}
