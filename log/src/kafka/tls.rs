//! TLS to a broker by rustls, for two purposes that librdkafka's own TLS does not serve: the administrative requests
//! of a client with a token ([`super::oauth`]), and the reason why a broker's certificate is refused, which librdkafka
//! does not report.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use super::{
    config::{Config, PROBE},
    trouble::{self, Trouble},
};
use crate::LogError;

/// Timeout of each step of a connection: of the connect, and of each read and write.
const STEP_TIMEOUT: Duration = Duration::from_secs(4);

/// The reason why a server's certificate is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CertificateProblem {
    Untrusted,
    WrongHost,
    Expired,
}

/// Returns the system's certificates.
pub(super) fn system() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs().certs;
    match found.is_empty() {
        true => Err("this system has no root certificates; install ca-certificates".to_owned()),
        false => Ok(found),
    }
}

/// Returns the certificates of a file, or of all files of a directory (PEM).
pub(super) fn in_place(location: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    certificates(&read(Path::new(location))?).map_err(|why| format!("{location}: {why}"))
}

/// Returns the certificates of a text in PEM.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err("there is no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()),
    }
}

/// Reads a file, or all files of a directory.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    if !path.is_dir() {
        return std::fs::read(path).map_err(failed);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if file.is_file() {
            all.extend(std::fs::read(&file).map_err(failed)?);
            all.push(b'\n');
        }
    }
    Ok(all)
}

/// Returns the TLS settings of connections to brokers. They follow the same properties as librdkafka's own TLS.
pub(super) fn settings(config: &Config) -> Result<Arc<ClientConfig>, String> {
    let location = config.value("ssl.ca.location");
    let trusted = match (config.value("ssl.ca.pem"), location) {
        (Some(pem), _) => certificates(pem.as_bytes())?,
        (None, Some(location)) if location != PROBE => in_place(location)?,
        (None, _) => system()?,
    };
    let mut roots = RootCertStore::empty();
    // A certificate that cannot be parsed is skipped, so that the others can be used.
    roots.add_parsable_certificates(trusted);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let named = |location: &str, pem: &str| match (config.value(location), config.value(pem)) {
        (Some(file), _) => read(Path::new(file)).map(Some),
        (None, text) => Ok(text.map(|text| text.as_bytes().to_vec())),
    };
    let certificate = named("ssl.certificate.location", "ssl.certificate.pem")?;
    let key = named("ssl.key.location", "ssl.key.pem")?;
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return Ok(Arc::new(client.with_no_client_auth()));
    };
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| format!("the client's private key cannot be used: {error}"))?;
    let client = client.with_client_auth_cert(certificates(&certificate)?, key);
    client
        .map(Arc::new)
        .map_err(|error| format!("the client's certificate cannot be used: {error}"))
}

/// Connects without TLS; each later read or write waits at most [`STEP_TIMEOUT`].
pub(super) fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP_TIMEOUT))?;
                stream.set_write_timeout(Some(STEP_TIMEOUT))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects and performs the handshake. `address` is `host:port`.
pub(super) fn secured(
    settings: Arc<ClientConfig>,
    address: &str,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut stream = connect(address)?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut client = ClientConnection::new(settings, name).map_err(io::Error::other)?;
    while client.is_handshaking() {
        client.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(client, stream))
}

/// Returns the problem with the certificate that made a handshake fail; `None` if the handshake failed for another
/// reason.
pub(super) fn certificate_problem(error: &io::Error) -> Option<CertificateProblem> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    certificate_problem_of(inner)
}

pub(super) fn certificate_problem_of(error: &rustls::Error) -> Option<CertificateProblem> {
    let rustls::Error::InvalidCertificate(error) = error else {
        return None;
    };
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Some(CertificateProblem::WrongHost)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            Some(CertificateProblem::Expired)
        }
        // rustls also reports these errors if a trusted CA has the same name but another key, and if the server uses a
        // CA's own certificate.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::Other(_) => Some(CertificateProblem::Untrusted),
        _ => None,
    }
}

/// Converts the error of a handshake with a broker; `None` if the certificate is not the reason.
pub(super) fn trouble(error: &io::Error) -> Option<Trouble> {
    Some(match certificate_problem(error)? {
        CertificateProblem::Untrusted => Trouble::UntrustedCertificate,
        CertificateProblem::WrongHost => Trouble::WrongHost,
        CertificateProblem::Expired => Trouble::ExpiredCertificate,
    })
}

/// Repeats the handshake with the broker of the report, to find out why librdkafka does not accept its certificate.
/// Returns `None` if the report is about something else, or if this handshake succeeds.
pub(super) fn diagnose(config: &Config, report: &str) -> Option<LogError> {
    if trouble::of(report) != Some(Trouble::Certificate) {
        return None;
    }
    let broker = trouble::broker(report)?;
    let error = secured(settings(config).ok()?, broker).err()?;
    Some(LogError::Security {
        broker: broker.to_owned(),
        detail: self::trouble(&error)?.to_string(),
    })
}
