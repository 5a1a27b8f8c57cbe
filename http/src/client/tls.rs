//! Client-side TLS, with the certificates of servers that a client trusts.
//!
//! ```text
//!  the system's roots, or a file ──▶ ClientTls ──▶ handshake: chain, name, dates ──▶ a stream
//! ```
//!
//! rustls-platform-verifier is not used: on Linux it only combines rustls-native-certs and webpki, and this module uses
//! these two directly. rustls-platform-verifier cannot use the roots of a file instead of the system's roots, and
//! cannot trust a self-signed certificate that a file contains.
//!
//! Invariant: [`ClientTls::connect`] returns a stream only if the server's certificate is trusted, is valid at this
//! time, and names the host. No flag turns this check off. For a server with a self-signed certificate, the user gives
//! the file of that certificate.

use std::{fmt, io, path::Path, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
        SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_name,
        },
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
        server::ParsedCertificate,
    },
};

use crate::net::tls::without_bom;

/// The protocol that a client requests by ALPN.
const PROTOCOL: &[u8] = b"http/1.1";

/// Client-side TLS with its trusted certificates. Clones share the cache of TLS sessions.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    /// The flag or environment variable that adds trusted certificates. Error messages name it.
    named_by: &'static str,
}

/// The reason why the trusted certificates cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ClientTlsError {
    /// The file is missing, or this process may not read it.
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file contains no valid certificate in PEM.
    #[error("the file contains no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// The system has no root certificates.
    #[error(
        "this system has no root certificates; set --cacert to a file of the certificates to trust"
    )]
    NoRoots,
}

impl ClientTls {
    /// Creates an instance that trusts the root certificates of the system. If the environment variable `SSL_CERT_FILE`
    /// or `SSL_CERT_DIR` is set, it trusts the certificates that these variables name instead.
    pub fn with_system_roots() -> Result<Self, ClientTlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        // Invalid root certificates are skipped.
        let (good, _) = roots.add_parsable_certificates(found.certs);
        match good {
            0 => Err(ClientTlsError::NoRoots),
            _ => Ok(Self::new(roots, Vec::new())),
        }
    }

    /// Creates an instance that trusts the certificates in a PEM file, and all certificates that are signed by a
    /// certificate of this file.
    pub fn with_ca_file(file: &Path) -> Result<Self, ClientTlsError> {
        let text = without_bom(std::fs::read(file)?);
        let named: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let named = named.map_err(|_| ClientTlsError::NoCertificate)?;
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            let added = roots.add(certificate.clone());
            added.map_err(|_| ClientTlsError::NoCertificate)?;
        }
        match named.is_empty() {
            true => Err(ClientTlsError::NoCertificate),
            false => Ok(Self::new(roots, named)),
        }
    }

    /// Creates an instance. `roots` must not be empty.
    fn new(roots: RootCertStore, named: Vec<CertificateDer<'static>>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let chains = chains.unwrap_or_else(|_| {
            unreachable!("the list of roots is not empty, and no revocation lists are used")
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap_or_else(|_| unreachable!("the provider supports TLS 1.2 and TLS 1.3"))
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { chains, named }))
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Self {
            connector: Arc::new(config).into(),
            named_by: "--cacert",
        }
    }

    /// Sets the flag or environment variable that error messages name instead of `--cacert`.
    pub(crate) fn named_by(self, flag: &'static str) -> Self {
        Self {
            named_by: flag,
            ..self
        }
    }

    /// Performs the TLS handshake with `host` over `stream`. `host` is a name, or an IP address without brackets.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| io::Error::other("no certificate can name this host"))?;
        let stream = self.connector.connect(name, stream).await;
        stream.map_err(|error| describe(host, self.named_by, error))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

/// Returns the error for a handshake that has failed. It contains the reason, and what the user can do.
fn describe(host: &str, named_by: &str, error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let Some(inner) = inner else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                io::Error::other("the server closed the connection during the TLS handshake")
            }
            _ => error,
        };
    };
    io::Error::other(match inner {
        // `BadSignature` means that the CA that has signed the certificate has the name of a trusted CA, but another
        // key. `Other` means that the server uses the certificate of a CA as its own. Such a certificate is trusted
        // only if the file contains it.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::Other(_),
        ) => format!(
            "the server's certificate is not trusted; set {named_by} to a file that contains this certificate or that of the CA that signed it"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!("the server's certificate is not for {host}"),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired".to_owned(),
        rustls::Error::InvalidMessage(_) => "the server does not use TLS; write http://".to_owned(),
        other => format!("the TLS handshake failed: {other}"),
    })
}

/// A verifier that accepts two kinds of certificates: those with a chain up to a trusted root, and those that the file
/// itself contains (`named`).
#[derive(Debug)]
struct Verifier {
    chains: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chained = self.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match chained {
            // `openssl req -x509` marks its certificates as CA certificates, which a server should not use (RFC 5280),
            // so webpki refuses them. Like curl, this verifier accepts such a certificate if the file contains it.
            // webpki has already checked the dates of the certificate, so this code checks only the name.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.named.iter().any(|named| named == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            chained => chained,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}
